"""Files as they come: variable rate, turned, cut, joined, corrupt, without a picture."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from capture_run import Run, file_spec
from media import (
    flip_bytes,
    number_in,
    picture,
    turn_quarter,
    write_audio,
    write_video,
)

from pipeline.config import CaptureConfig
from pipeline.grab_messages import CaptureAccount
from pipeline.messages import CameraState, FrameRef, SourceEnd
from pipeline.open_errors import OpenError
from pipeline.readers import Grab, open_reader
from pipeline.sight import Blindness
from pipeline.sources import parse_source

STEADY = [k / 25 for k in range(50)]


def grabbed(path: Path, **settings: object) -> tuple[list[FrameRef], CaptureAccount, int]:
    """Sampled frames, the books, and how many timestamps were at fault."""
    with Run(file_spec("cam", path, **{"analysis_fps": 1000, **settings})) as run:
        refs = run.take_all()
        account, status = run.capture.accounts()["cam"], run.capture.status()["cam"]
        assert run.capture.errors() == {}
    assert account.balanced
    times = [ref.stamp.time_s for ref in refs]
    assert times == sorted(set(times)), "media time must never stand still or step back"
    return refs, account, status.timestamp_faults


def test_a_variable_rate_is_sampled_by_its_times(tmp_path: Path):
    times = [0.0, 0.04, 0.08, 1.0, 1.02, 1.04, 2.5, 2.51, 4.0, 4.3, 4.6, 5.0]
    refs, account, faults = grabbed(write_video(tmp_path / "vfr.mp4", times), analysis_fps=1)
    assert [ref.stamp.sequence for ref in refs] == [0, 3, 6, 8, 11]
    assert [ref.stamp.position_s for ref in refs] == pytest.approx([0, 1, 2.5, 4, 5], abs=2e-3)
    assert (account.grabbed, faults) == (12, 0)


@pytest.mark.parametrize("key_frames_only", [False, True])
def test_a_turned_recording_is_looked_at_upright(tmp_path: Path, key_frames_only: bool):
    path = turn_quarter(write_video(tmp_path / "turned.mp4", STEADY))
    config = CaptureConfig(key_frames_only=key_frames_only)
    reader = open_reader(parse_source(str(path)), config)
    while reader.grab() is not Grab.FRAME:
        pass
    image = reader.retrieve()
    upright = np.rot90(picture(0, 128, 96), -1)
    assert image.shape == upright.shape
    assert np.abs(image[:, :, ::-1].astype(int) - upright).mean() < 12


def test_times_that_start_again_go_on_and_are_counted(tmp_path: Path):
    once = write_video(tmp_path / "once.ts", STEADY)
    twice = tmp_path / "twice.ts"
    twice.write_bytes(once.read_bytes() * 2)
    refs, account, faults = grabbed(twice)
    assert account.grabbed == 100
    assert faults >= 1
    assert refs[-1].stamp.time_s == pytest.approx(4.0, abs=0.2)


def test_a_size_that_changes_within_a_file_is_followed(tmp_path: Path):
    parts = [
        write_video(tmp_path / f"{width}.ts", STEADY, (width, width * 3 // 4)).read_bytes()
        for width in (128, 256)
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(parts))
    refs, _, _ = grabbed(joined)
    assert len(refs) == 100


def test_a_stream_cut_into_within_a_group_of_pictures_begins_with_a_whole_picture(tmp_path: Path):
    whole = write_video(tmp_path / "whole.ts", STEADY, gop=20).read_bytes()
    cut = tmp_path / "cut.ts"
    cut.write_bytes(whole[len(whole) // 4 // 188 * 188 :])
    with Run(file_spec("cam", cut, analysis_fps=1000)) as run:
        numbers = []
        while not run.capture.all_finished() or len(run.inbox):
            for ref in run.inbox.take(1, 0.2):
                if isinstance(ref, SourceEnd):
                    continue
                slots = run.capture.slots_of(ref)
                preview = slots.preview(ref.slot, ref.preview_width, ref.preview_height)
                numbers.append(number_in(preview))
                run.capture.release(ref)
        account = run.capture.accounts()["cam"]
    assert account.balanced
    assert numbers, "what follows the next key frame must be looked at"
    assert numbers == list(range(numbers[0], 50)), "no picture may be half decoded"


def test_sound_without_a_picture_is_told_as_such(tmp_path: Path):
    path = write_audio(tmp_path / "sound.m4a")
    for key_frames_only in (False, True):
        config = CaptureConfig(key_frames_only=key_frames_only)
        with pytest.raises(OpenError, match="holds sound but no picture"):
            open_reader(parse_source(str(path)), config)


@pytest.mark.fault
@pytest.mark.parametrize("seeds", [24, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_a_corrupt_file_ends_normally_and_its_books_balance(
    tmp_path: Path, seeds: int, suffix: str
):
    data = write_video(tmp_path / f"good{suffix}", STEADY).read_bytes()
    specs = []
    for seed in range(seeds):
        path = tmp_path / f"{seed}{suffix}"
        path.write_bytes(flip_bytes(data, seed))
        specs.append(file_spec(f"c{seed}", path, analysis_fps=1000))
    with Run(*specs) as run:
        refs = run.take_all(within_s=280.0)
        accounts, errors = run.capture.accounts(), run.capture.errors()
    assert all(account.balanced for account in accounts.values())
    assert len(refs) == sum(account.delivered for account in accounts.values())
    unreadable = [name for name, account in accounts.items() if account.delivered == 0]
    assert set(unreadable) <= set(errors), "a file that gives nothing must say why"
    assert len(unreadable) < seeds, "most have something left to look at"


def with_hole(path: Path, first: int, last: int | None = None) -> Path:
    """Write zeros over the packets of a file from ``first`` on, up to ``last``."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        places = [(packet.pos, packet.size) for packet in packets[first:last]]
    data = bytearray(path.read_bytes())
    for place, size in places:
        data[place : place + size] = bytes(size)
    path.write_bytes(data)
    return path


def with_index_first(path: Path) -> Path:
    """Write an MP4 again as cameras and players like it, its index before its pictures."""
    target = path.with_name("index-first.mp4")
    with (
        av.open(str(path)) as old,
        av.open(str(target), "w", options={"movflags": "faststart"}) as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return target


@pytest.mark.parametrize("key_frames_only", [False, True])
def test_a_recording_is_read_on_behind_a_long_hole(tmp_path: Path, key_frames_only: bool):
    path = with_hole(write_video(tmp_path / "hole.mp4", [k / 25 for k in range(200)]), 50, 90)
    refs, account, _ = grabbed(path, key_frames_only=key_frames_only)
    assert refs[-1].stamp.time_s > 7.0, "there are eight seconds"
    if not key_frames_only:
        assert account.failed == {"broken": 40}
        assert account.delivered >= 140


@pytest.mark.fault
def test_a_hole_is_counted_once_though_the_grabber_dies_behind_it(tmp_path: Path):
    path = with_hole(write_video(tmp_path / "hole.mp4", [k / 25 for k in range(200)]), 20, 40)
    with Run(file_spec("cam", path, analysis_fps=1000)) as run:
        run.take_until(lambda: run.capture.accounts()["cam"].grabbed > 60, 30)
        os.kill(run.child_pid("cam"), signal.SIGKILL)
        run.take_all()
        account, errors = run.capture.accounts()["cam"], run.capture.errors()
    assert (account.failed, errors) == ({"broken": 20}, {})
    assert account.balanced


def test_a_recording_whose_rest_is_there_and_cannot_be_read_has_failed(tmp_path: Path):
    path = with_hole(write_video(tmp_path / "half.mp4", [k / 25 for k in range(200)]), 50)
    with Run(file_spec("cam", path, analysis_fps=1000)) as run:
        refs = run.take_all()
        account, errors = run.capture.accounts()["cam"], run.capture.errors()
    assert errors == {
        "cam": f"{path}: can be read no further than 2.0 of 8.0 s; is it damaged? copy it again"
    }
    assert run.ended == [], "or --resume would leave it out"
    assert len(refs) == account.delivered
    assert account.balanced and account.failed == {"broken": 150}


def test_a_recording_that_is_cut_off_ends_normally_and_it_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = with_index_first(write_video(tmp_path / "whole.mp4", [k / 25 for k in range(200)]))
    data = path.read_bytes()
    _, whole, _ = grabbed(path)
    assert whole.failed == {} and "read no further" not in caplog.text
    path.write_bytes(data[: len(data) // 2])
    _, cut, _ = grabbed(path)
    assert cut.grabbed == 200 and 0 < cut.failed["broken"] < 200
    assert "of 8.0 s, where it is cut off; copy it again" in caplog.text


@pytest.mark.parametrize("name", ["v.ts", "v.mkv", "v.avi", "late.mkv", "trimmed.mp4"])
def test_a_recording_that_has_fewer_frames_than_its_container_guesses_is_whole(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
):
    times = [0.0, 0.04, 0.08, 1.0, 1.02, 2.5, 2.51, 4.0, 5.0]
    late = [30 + k / 25 for k in range(9)]
    steady = [k / 25 for k in range(36)]
    chosen = {"late.mkv": late, "trimmed.mp4": steady}.get(name, times)
    path = write_video(tmp_path / name, chosen)
    if name == "trimmed.mp4":  # of 1440 ms only 360 are to be shown
        data = path.read_bytes().replace((1440).to_bytes(4, "big"), (360).to_bytes(4, "big"))
        path.write_bytes(data)
    _, account, _ = grabbed(path)
    assert (account.grabbed, account.failed) == (9, {})
    assert "read no further" not in caplog.text


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_a_film_whose_sound_goes_on_behind_its_pictures_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Cut without encoding anew: frames before the cut are hidden, and sound is left over."""
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    video = ("-f", "lavfi", "-i", "testsrc=size=128x96:rate=25:duration=6")
    sound = ("-f", "lavfi", "-i", "sine=duration=12")
    ffmpeg = ("ffmpeg", "-v", "error", "-y")
    subprocess.run([*ffmpeg, *video, *sound, "-g", "250", str(whole)], check=True)
    subprocess.run([*ffmpeg, "-ss", "3", "-i", str(whole), "-c", "copy", str(cut)], check=True)
    _, account, _ = grabbed(cut)
    assert account.grabbed > 70
    assert account.failed == {}
    assert "read no further" not in caplog.text


def test_key_frames_alone_are_decoded_and_the_right_ones(tmp_path: Path):
    path = write_video(tmp_path / "gop.mp4", STEADY, gop=10)
    with Run(file_spec("cam", path, analysis_fps=1000, key_frames_only=True)) as run:
        (first,) = run.inbox.take(1, 30.0)
        square = run.capture.slots_of(first).square(first.slot).copy()
        run.capture.release(first)
        refs = [first, *run.take_all()]
        account = run.capture.accounts()["cam"]
    assert [ref.stamp.position_s for ref in refs] == pytest.approx([0, 0.4, 0.8, 1.2, 1.6])
    assert account.grabbed == account.delivered == 5
    expected = open_reader(parse_source(str(path)), CaptureConfig())
    expected.grab()
    assert number_in(square) == number_in(expected.retrieve()) == 0


@pytest.mark.parametrize("key_frames_only", [False, True])
def test_what_a_mask_covers_never_leaves_the_grabber(tmp_path: Path, key_frames_only: bool):
    white = [np.full((96, 128, 3), 235, np.uint8)] * 10
    path = write_video(tmp_path / "white.mp4", STEADY[:10], pictures=white)
    spec = file_spec("cam", path, key_frames_only=key_frames_only)
    masks = (((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)),)
    with Run(type(spec)(spec.name, spec.source, spec.capture, masks=masks)) as run:
        (ref,) = run.inbox.take(1, 30.0)
        slots = run.capture.slots_of(ref)
        square = slots.square(ref.slot).copy()
        preview = slots.preview(ref.slot, ref.preview_width, ref.preview_height).copy()
    for image in (square, preview):
        middle = image.shape[1] // 2
        assert not image[:, : middle - 2].any()
        assert image[:, middle + 2 :].min() > 200


def test_a_camera_that_is_covered_and_uncovered_is_told_once_each(tmp_path: Path):
    seen = [picture(k % 256, 128, 96) for k in range(40)]
    dark = [np.zeros((96, 128, 3), np.uint8)] * 40
    times = [k / 10 for k in range(160)]
    path = write_video(tmp_path / "covered.mp4", times, pictures=[*seen, *dark, *seen, *seen])
    with Run(file_spec("cam", path, analysis_fps=10, blind_after_s=2.0)) as run:
        run.take_all()
        status, events = run.capture.status()["cam"], run.events
    assert [event.state for event in events] == [CameraState.BLIND, CameraState.SIGHTED]
    assert events[0].reason == Blindness.BLACK.sentence
    assert (events[1].since - events[0].since).total_seconds() == pytest.approx(4.0, abs=1.1)
    assert status.blind is None


def test_media_helper_numbers_survive_coding(tmp_path: Path):
    reader = open_reader(
        parse_source(str(write_video(tmp_path / "n.mp4", STEADY))), CaptureConfig()
    )
    numbers = []
    while reader.grab() is Grab.FRAME:
        numbers.append(number_in(reader.retrieve()))
    assert all(after == before + 1 for before, after in pairwise(numbers))
