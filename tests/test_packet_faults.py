"""Networks that lose, delay, reorder, stall and reset: what is looked at, and what is said."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from capture_run import Run
from media import number_in, picture, write_video
from numpy.typing import NDArray
from rtsp_server import RtspServer
from tcp_relay import TcpRelay
from udp_camera import Network, UdpCamera

from pipeline.capture import CameraSpec
from pipeline.config import CaptureConfig
from pipeline.open_errors import explain_network
from pipeline.sources import parse_source

pytestmark = pytest.mark.fault
SIZE = (320, 240)


def moving(number: int) -> NDArray[np.uint8]:
    """A numbered picture whose ground moves on with its number: no two look alike anywhere."""
    image = picture(number, *SIZE)
    top = SIZE[1] // 4
    image[top:] = np.roll(image[top:], (8 * number, 8 * number), axis=(0, 1))
    return image


def is_whole(image: NDArray[np.uint8]) -> bool:
    """Whether an (H, W, 3) RGB picture is, in every block, the one whose number it carries."""
    difference = np.abs(image.astype(int) - moving(number_in(image))).mean(axis=2)
    blocks = difference.reshape(SIZE[1] // 16, 16, SIZE[0] // 16, 16).mean(axis=(1, 3))
    return bool(blocks.max() < 30)


def clip(folder: Path, name: str) -> Path:
    times = [k / 25 for k in range(100)]
    return write_video(folder / name, times, SIZE, gop=25, pictures=[moving(k) for k in range(100)])


def wholeness(run: Run, enough: Callable[[int], bool], within_s: float = 60.0) -> list[bool]:
    """Look at the frames that come until there are ``enough``; whether each is whole."""
    seen: list[bool] = []
    deadline_s = time.monotonic() + within_s
    while not enough(len(seen)):
        assert time.monotonic() < deadline_s, (run.capture.status(), len(seen))
        for ref in run.inbox.take(16, 0.2):
            slots = run.capture.slots_of(ref)
            seen.append(is_whole(slots.preview(ref.slot, ref.preview_width, ref.preview_height)))
            run.capture.release(ref)
    return seen


def spec_of(url: str, **settings: object) -> CameraSpec:
    patient = {"analysis_fps": 25, "open_timeout_s": 20.0, "stale_after_s": 20.0}
    return CameraSpec("cam", parse_source(url), CaptureConfig(**{**patient, **settings}))


def test_over_tcp_a_link_that_stalls_spoils_no_frame_and_a_reset_only_the_one_it_cuts(
    tmp_path: Path,
):
    clip(tmp_path, "cam.mp4")
    chance = random.Random(5)
    with RtspServer(tmp_path) as server, TcpRelay(server.port) as relay:
        over = threading.Event()

        def trouble() -> None:
            for turn in range(8):
                over.wait(chance.uniform(0.3, 1.0))
                relay.stall()
                over.wait(chance.uniform(0.1, 0.8))
                relay.resume()
                if turn % 4 == 3:
                    relay.reset()

        with Run(spec_of(relay.url("cam.mp4"))) as run:
            run.take_until(lambda: run.capture.status()["cam"].up, 40)
            troubled = threading.Thread(target=trouble)
            troubled.start()
            seen = wholeness(run, lambda count: not troubled.is_alive() and count > 100, 120)
            over.set()
            seen += wholeness(run, lambda count: count > 10)
            status, account = run.capture.status()["cam"], run.capture.accounts()["cam"]
    # Of a connection that is reset in the middle of a picture FFmpeg gives what had come of it, and
    # does not tell.
    assert seen.count(False) <= status.reconnects
    assert status.reconnects >= 2
    assert account.balanced


def test_udp_is_flagged_and_goes_on_through_loss_and_reordering(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    video = clip(tmp_path, "cam.ts")
    network = Network(loss=0.05, reordering=0.05, delay_s=0.002)
    with UdpCamera(video, network) as camera, Run(spec_of(camera.url, transport="udp")) as run:
        seen = wholeness(run, lambda count: count > 60)
        account, errors = run.capture.accounts()["cam"], run.capture.errors()
    assert network.lost > 5
    assert any(seen), "what the network spares must come through"
    assert account.balanced
    assert not errors
    assert [m for m in caplog.messages if "over UDP lost packets show as damaged pictures" in m]


def test_damaged_key_frames_are_counted_and_not_looked_at(tmp_path: Path):
    video = clip(tmp_path, "cam.ts")
    network, settings = Network(loss=0.08), {"transport": "udp", "key_frames_only": True}
    with UdpCamera(video, network) as camera, Run(spec_of(camera.url, **settings)) as run:
        seen: list[bool] = []
        while not (account := run.capture.accounts()["cam"]).failed or len(seen) < 5:
            seen += wholeness(run, lambda count: count > 1)
    assert all(seen)
    assert set(account.failed) == {"corrupt"}
    assert account.balanced


def test_udp_without_loss_brings_whole_pictures(tmp_path: Path):
    video = clip(tmp_path, "cam.ts")
    with UdpCamera(video, Network()) as camera, Run(spec_of(camera.url, transport="udp")) as run:
        seen = wholeness(run, lambda count: count > 40)
    assert sum(seen) > 30, "the first may begin within a group of pictures"
    assert all(seen[-20:])


def test_a_camera_without_tcp_is_told_how_to_be_reached(tmp_path: Path):
    with UdpCamera(clip(tmp_path, "cam.ts"), Network()) as camera, Run(spec_of(camera.url)) as run:
        run.take_until(lambda: "cam" in run.capture.errors(), 40)
        assert "transport: udp" in run.capture.errors()["cam"]


def test_a_camera_that_has_worked_is_not_said_to_need_another_transport(tmp_path: Path):
    with UdpCamera(clip(tmp_path, "cam.ts"), Network()) as camera:
        told = explain_network(parse_source(camera.url), 5.0)
    assert "transport: udp" in str(told), "the first time it may be so"
    assert told.without_hint.endswith("but gives no video this way")
    assert str(told).startswith(told.without_hint)


def test_a_leap_of_a_live_streams_times_is_counted_and_does_not_stop_it(tmp_path: Path):
    network = Network(jump_after=150)
    video = clip(tmp_path, "cam.ts")
    with UdpCamera(video, network) as camera, Run(spec_of(camera.url, transport="udp")) as run:
        refs = run.take_until(lambda: run.capture.status()["cam"].timestamp_faults > 0, 60)
        refs += run.take_for(2.0)
    received_ns = [ref.stamp.captured_monotonic_ns for ref in refs]
    received_at = [ref.stamp.captured_at for ref in refs]
    assert received_ns == sorted(set(received_ns))
    assert (received_at[-1] - received_at[0]).total_seconds() < 120
