"""Live sources at the edge: clocks that stand still or leap, missing devices, no decoder chip."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import pytest
from capture_run import Run, file_spec
from media import write_video
from web_camera import MJPEG, web_server

from pipeline.capture import CameraSpec
from pipeline.config import CaptureConfig
from pipeline.messages import CameraState
from pipeline.readers import Grab, open_reader
from pipeline.sources import parse_source

SECONDS = 2
STEADY = [k / 25 for k in range(25 * SECONDS)]
EVERY_FRAME = CaptureConfig(
    analysis_fps=1000, queue_frames=100, stale_after_s=30.0, open_timeout_s=30.0
)
NO_DEVICE = 97


@pytest.mark.fault
@pytest.mark.parametrize("suffix", [".ts", ".h264"])
def test_a_live_streams_clock_may_start_again_or_stand_still(tmp_path: Path, suffix: str):
    """A transport stream that loops leaps back; raw video has no timestamps at all."""
    path = write_video(tmp_path / f"cam{suffix}", STEADY)
    with web_server(tmp_path, path.stat().st_size / SECONDS) as port:
        source = parse_source(f"http://127.0.0.1:{port}/loop/{path.name}")
        with Run(CameraSpec("cam", source, EVERY_FRAME)) as run:
            refs = run.take_until(lambda: run.capture.accounts()["cam"].grabbed > 120, 120)
            account, status = run.capture.accounts()["cam"], run.capture.status()["cam"]
    assert run.events == [], "it is never offline"
    assert status.reconnects == 0
    assert status.timestamp_faults >= 1, "the fault is counted"
    assert account.balanced
    assert not account.dropped and not account.failed, "moving pictures are no repeated ones"
    stamps = [ref.stamp for ref in refs]
    for before, after in pairwise(stamps):
        assert before.sequence < after.sequence
        assert before.captured_monotonic_ns < after.captured_monotonic_ns
        assert before.captured_at <= after.captured_at


@pytest.mark.fault
def test_a_camera_that_is_not_plugged_in_is_told_once_and_tried_again():
    config = CaptureConfig(open_timeout_s=30.0)
    with Run(CameraSpec("desk", parse_source(str(NO_DEVICE)), config)) as run:
        run.take_until(lambda: run.capture.status()["desk"].reconnects >= 2, 60)
        error = run.capture.errors()["desk"]
    assert f"camera {NO_DEVICE}: there is no /dev/video{NO_DEVICE}; this machine has" in error
    assert [event.state for event in run.events] == [CameraState.OFFLINE]


class _Seen:
    """OpenCV's own capture, with a note of how it was opened."""

    def __init__(self) -> None:
        self.opened: list[tuple[Any, ...]] = []
        self._original = cv2.VideoCapture

    def __call__(self, *arguments: Any) -> Any:
        self.opened.append(arguments)
        return self._original(*arguments)


@pytest.mark.parametrize("wanted", [True, False])
def test_hardware_decoding_is_asked_for_when_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool
):
    seen = _Seen()
    monkeypatch.setattr(cv2, "VideoCapture", seen)
    source = parse_source(str(write_video(tmp_path / "a.mp4", STEADY)))
    open_reader(source, CaptureConfig(hardware_decoding=wanted)).close()
    ((_, backend, options),) = seen.opened
    pairs = dict(zip(options[::2], options[1::2], strict=True))
    assert backend == cv2.CAP_FFMPEG
    asked = pairs.get(cv2.CAP_PROP_HW_ACCELERATION)
    assert asked == (cv2.VIDEO_ACCELERATION_ANY if wanted else None)


def test_a_live_streams_decoder_takes_two_threads_whatever_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen = _Seen()
    monkeypatch.setattr(cv2, "VideoCapture", seen)
    with web_server(tmp_path) as port:
        reader = open_reader(parse_source(f"http://127.0.0.1:{port}{MJPEG}"), EVERY_FRAME)
        assert reader.grab() is Grab.FRAME
        reader.close()
    ((_, _, options),) = seen.opened
    assert dict(zip(options[::2], options[1::2], strict=True))[cv2.CAP_PROP_N_THREADS] == 2


@pytest.mark.parametrize("wanted", [True, False])
def test_without_such_hardware_the_processor_decodes_and_it_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wanted: bool
):
    path = write_video(tmp_path / "a.mp4", STEADY)
    with Run(file_spec("cam", path, hardware_decoding=wanted)) as run:
        refs = run.take_all()
        info = run.capture.status()["cam"].info
    assert len(refs) == 5
    assert info is not None
    said = [message for message in caplog.messages if "the processor decodes it" in message]
    assert len(said) == (wanted and not info.hardware)
