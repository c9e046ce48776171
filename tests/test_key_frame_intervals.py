"""Cameras that send key frames seldom: they are connected to between two of them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat

import pytest
from capture_run import Run
from media import write_video

from benchmarks.replay_server import _Client, load
from pipeline.capture import CameraSpec
from pipeline.config import CaptureConfig
from pipeline.sources import parse_source

GOP, PERIOD_S, FIRST = 100, 0.04, 5


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A camera with a key frame every 4 s, which whoever connects has just missed."""
    file = tmp_path_factory.mktemp("seldom") / "a.mp4"
    write_video(file, [i * PERIOD_S for i in range(GOP)], (128, 96), GOP)
    recording = load(file)
    assert recording.keys == (0,)
    missed = {file.name: replace(recording, keys=(FIRST,))}
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    serving = loop.create_server(lambda: _Client(missed, repeat(0.0)), "127.0.0.1", 0)
    server = asyncio.run_coroutine_threadsafe(serving, loop).result()
    yield f"rtsp://127.0.0.1:{server.sockets[0].getsockname()[1]}/{file.name}"
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.mark.parametrize(("key_frames_only", "read_timeout_s"), [(False, 15.0), (True, 1.0)])
def test_a_camera_is_seen_once_its_key_frame_comes(
    url: str, key_frames_only: bool, read_timeout_s: float
) -> None:
    config = CaptureConfig(
        open_timeout_s=1.0,
        read_timeout_s=read_timeout_s,
        key_frames_only=key_frames_only,
        stale_after_s=60.0,
    )
    with Run(CameraSpec("gate", parse_source(url), config)) as run:
        end, seen = time.monotonic() + 40.0, []
        while not seen and time.monotonic() < end:
            seen = run.take(0.2)
        assert seen
        assert not run.events


def test_a_camera_whose_key_frame_does_not_come_in_time_is_told_what_to_set(url: str) -> None:
    config = CaptureConfig(open_timeout_s=1.0, read_timeout_s=1.0, stale_after_s=60.0)
    with Run(CameraSpec("gate", parse_source(url), config)) as run:
        run.take_until(lambda: bool(run.events), 40.0)
        assert "the stream gives no picture" in run.events[0].reason
        assert "over 1 s apart, raise capture.read_timeout_s" in run.events[0].reason
