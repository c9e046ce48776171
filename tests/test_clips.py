"""The seconds around an alert as an MP4: which frames, at which times, and nobody's face."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest
from media import number_in, picture
from numpy.typing import NDArray
from waiting import until

from pipeline.alerts.clips import ClipRecorder
from pipeline.alerts.faces import FaceFinder
from pipeline.alerts.media_folder import MediaFolder
from pipeline.config import ClipConfig
from pipeline.messages import Alert, Caption, FrameStamp
from pipeline.rules import replay
from pipeline.rules.ruleset import make_rules
from pipeline.rules.schema import RulesFile

START = datetime(2026, 1, 5, 12, tzinfo=timezone.utc)
FPS = 4


def stamp_at(number: int, camera: str = "lobby") -> FrameStamp:
    seconds = number / FPS
    return FrameStamp(camera, number, START + timedelta(seconds=seconds), 0, seconds)


def alert_at(number: int, camera: str = "lobby") -> Alert:
    rules = make_rules(RulesFile.model_validate({"rules": [{"name": "x", "keywords": ["fight"]}]}))
    return next(replay([Caption(stamp_at(number, camera), "a fight", -1.0)], rules))


def show(clips: ClipRecorder, numbers: range, camera: str = "lobby") -> None:
    for number in numbers:
        clips.frame(stamp_at(number, camera), picture(number, 128, 96))


def recorder(folder: Path, faces: FaceFinder | None = None, **settings: float) -> ClipRecorder:
    config = ClipConfig.model_validate({"before_s": 2, "after_s": 3, **settings})
    clips = ClipRecorder(config, MediaFolder(folder, ".mp4", 10**9), faces)
    clips.start()
    return clips


def frames_of(path: Path) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Seconds from the start and picture (H, W, 3) of every frame."""
    capture = cv2.VideoCapture(str(path))
    while True:
        read, frame = capture.read()
        if not read:
            return
        yield capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, np.asarray(frame, np.uint8)


def test_a_clip_holds_the_seconds_before_and_after_and_their_times(tmp_path: Path) -> None:
    clips, alert = recorder(tmp_path), alert_at(40)
    show(clips, range(45))  # the alert comes later than its frame
    show(clips, range(10, 50), camera="other")
    clips.begin(alert)
    show(clips, range(45, 80))
    until(clips.path(alert).exists)
    clips.close()
    times, pictures = zip(*frames_of(clips.path(alert)), strict=True)
    assert [number_in(image) for image in pictures] == list(range(32, 53))
    assert times == pytest.approx([number / FPS for number in range(21)], abs=0.01)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "lobby", clips.path(alert)]


def test_what_is_unfinished_is_written_at_the_end(tmp_path: Path) -> None:
    clips, alert = recorder(tmp_path), alert_at(40)
    show(clips, range(44))
    clips.begin(alert)
    clips.close()
    clips.close()
    assert len(list(frames_of(clips.path(alert)))) == 12


def test_a_camera_that_falls_silent_ends_its_clip_and_gives_its_memory_back(
    tmp_path: Path,
) -> None:
    now_s = [0.0]
    folder = MediaFolder(tmp_path, ".mp4", 10**9)
    clips = ClipRecorder(ClipConfig(before_s=2, after_s=3), folder, None, lambda: now_s[0])
    clips.start()
    show(clips, range(44))
    clips.begin(alert_at(40))
    now_s[0] = 12.0
    clips._forget_silent_cameras()
    assert len(clips._growing) == 1
    now_s[0] = 14.0
    until(clips.path(alert_at(40)).exists)
    assert list(clips._rings) == ["lobby"]
    now_s[0] = 60.0
    until(lambda: not clips._rings)
    clips.close()


def test_memory_for_a_camera_stays_within_its_limit(tmp_path: Path) -> None:
    clips = recorder(tmp_path, memory_mib=0.05, before_s=60)
    clips.begin(alert_at(0))
    show(clips, range(150))
    ring = clips._rings["lobby"]
    assert ring.size == sum(len(frame.jpeg) for frame in ring.frames) <= 0.05 * 2**20
    until(clips.path(alert_at(0)).exists)  # its own frames are bounded too
    clips.close()


def test_faces_are_blurred_in_every_frame(tmp_path: Path) -> None:
    clips = recorder(tmp_path, lambda _: [(40.0, 40.0, 80.0, 80.0)])
    show(clips, range(44))
    clips.begin(alert_at(40))
    clips.close()
    frames = [frame for _, frame in frames_of(clips.path(alert_at(40)))]
    assert len(frames) == 12
    for frame in frames:
        inside, outside = frame[40:80, 40:80], frame[50:90, 90:128]
        assert np.abs(np.diff(inside.astype(int), axis=1)).mean() < 3
        assert np.abs(np.diff(outside.astype(int), axis=1)).mean() > 3


def test_rather_no_clip_than_a_clear_face_and_the_next_one_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = [True]

    def find(_: NDArray[np.uint8]) -> list[tuple[float, float, float, float]]:
        if broken[0]:
            raise cv2.error("broken")
        return []

    clips = recorder(tmp_path, find)
    show(clips, range(60))
    with caplog.at_level(logging.ERROR):
        clips.begin(alert_at(40))
        until(lambda: "no clip" in caplog.text)
    broken[0] = False
    clips.begin(alert_at(44))
    clips.close()
    assert not clips.path(alert_at(40)).exists()
    assert clips.path(alert_at(44)).exists()


def test_a_folder_that_cannot_be_written_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    clips = recorder(tmp_path / "file")
    show(clips, range(60))
    for number in (40, 41):
        clips.begin(alert_at(number))
    clips.close()
    assert len(caplog.records) == 1
