"""The alerts benchmark: what its timelines hold, and what counts as found and as false."""

from __future__ import annotations

import itertools
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.alert_scores import Started, score, started_of, table
from benchmarks.timelines import (
    EVENT_S,
    FPS,
    LEAD_S,
    Footage,
    Segment,
    Timeline,
    plan,
    unpack,
    write,
)

QUIET = Footage(Path("quiet.mp4"), "clip", "s1", "cctv")
BRAWL = Footage(Path("brawl.mp4"), "clip", "s1", "cctv", frozenset({"fight", "person_down"}))
SHOP = Footage(Path("shop.mp4"), "video", "s2", "video")


def fight_timeline() -> Timeline:
    segments = (Segment(QUIET, 6.0), Segment(BRAWL, 10.0, "fight"), Segment(QUIET, 6.0))
    return Timeline("fight-00", segments)


def alert(media_s: float, tag: str = "fight", camera: str = "fight-00") -> Started:
    return Started(camera, tag, frozenset({tag}), media_s, "two men fight")


def false_alerts(*alerts: Started) -> int:
    return score([fight_timeline()], alerts)["normal_video"]["false_alerts"]


@pytest.mark.parametrize(
    ("media_s", "delay_s"),
    [(5.9, None), (6.0, 0.0), (9.5, 3.5), (17.9, 11.9), (18.1, None)],
)
def test_an_event_is_found_by_an_alert_within_it(media_s: float, delay_s: float | None) -> None:
    report = score([fight_timeline()], [alert(media_s)])
    assert report["events"]["fight"][0]["delay_s"] == delay_s
    assert report["recall"]["fight"]["recall"] == (0.0 if delay_s is None else 1.0)
    # What does not find the event is false, and the other way round.
    assert report["normal_video"]["false_alerts"] == (1 if delay_s is None else 0)


def test_the_first_alert_counts_for_the_delay() -> None:
    report = score([fight_timeline()], [alert(14.0), alert(8.0)])
    assert report["recall"]["fight"]["delay_median_s"] == 2.0


def test_an_alert_of_what_is_labelled_there_is_no_false_one() -> None:
    assert false_alerts(alert(8.0, "person_down")) == 0
    report = score([fight_timeline()], [alert(8.0, "crash")])
    assert report["normal_video"]["false_alerts"] == 0
    assert report["other_alerts_in_events"] == {"crash in fight": 1}


def test_normal_footage_is_counted_to_the_second() -> None:
    shop = Timeline("normal-shop", (Segment(SHOP, 100.0),))
    report = score([fight_timeline(), shop], [alert(50.0, "fire", "normal-shop")])
    normal = report["normal_video"]
    assert normal["played_s"] == 112.0
    assert normal["false_alerts_per_hour"] == pytest.approx(3600 / 112, abs=0.01)
    assert normal["by_rule"] == {"fire": 1}
    assert "| video | 2 (2) | 112 s | 1 |" in table(report)


def test_alerts_of_rules_without_hazard_do_not_count() -> None:
    event = {"type": "watchword.alert.started", "data": {"camera": "a", "rule": "crowd"}}
    event["data"] |= {"tags": ["crowd"], "media_time_s": 1.0, "caption": "a crowd"}
    ended = {"type": "watchword.alert.ended", "data": {**event["data"], "tags": ["fire"]}}
    assert started_of([event, ended]) == []
    event["data"]["tags"] = ["fire"]
    assert [found.rule for found in started_of([event])] == ["crowd"]


@pytest.fixture(scope="module")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two validation scenes: a clip that brightens and its fight, a fire picture."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "surveillance"
    folder.mkdir()
    rows = []
    for name, event in (("calm", "normal"), ("brawl", "fight")):
        path = root / f"{name}.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
        for level in range(20):
            writer.write(np.full((48, 64, 3), level * 12, np.uint8))
        writer.release()
        rows.append({"image": f"{name}.jpg", "clip": path.name, "clip_event": event, "hazard": []})
    cv2.imwrite(str(root / "flames.jpg"), np.full((32, 40, 3), 90, np.uint8))
    rows.append({"image": "flames.jpg", "hazard": ["fire"]})
    lines = [{"split": "val", "scene": "s", "source": "x", **row} for row in rows]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for archive, names in (("clips", ["calm.mp4", "brawl.mp4"]), ("images", ["flames.jpg"])):
        with tarfile.open(folder / f"{archive}.tar", "w") as tar:
            for name in names:
                tar.add(root / name, arcname=name)
    unpack(root, root / "unpacked")
    return root


def planned(data: Path, split: str = "val") -> list[Timeline]:
    return plan(data, data / "unpacked", split, ["fight", "fire"], seed=1)


def frames(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    found = []
    while (read := capture.read())[0]:
        found.append(read[1])
    return found


def test_timelines_set_events_into_normal_footage(small_data: Path) -> None:
    timelines = {timeline.name: timeline for timeline in planned(small_data)}
    fight = timelines["fight-00"].segments
    assert [segment.event for segment in fight] == [None, "fight", None]
    assert [segment.footage.path.stem for segment in fight] == ["calm", "brawl", "calm"]
    assert timelines["fire-00"].segments[1].footage.path.name == "flames.jpg"
    assert "normal-calm" in timelines
    assert "normal-brawl" not in timelines
    assert planned(small_data, "train") == []


def test_a_written_timeline_holds_its_seconds_and_is_repeatable(
    small_data: Path, tmp_path: Path
) -> None:
    fire = next(t for t in planned(small_data) if t.name == "fire-00")
    for name in ("a.avi", "b.avi"):
        write(fire, tmp_path / name, seed=1)
    assert (tmp_path / "a.avi").read_bytes() == (tmp_path / "b.avi").read_bytes()
    seen = frames(tmp_path / "a.avi")
    assert len(seen) == round((2 * LEAD_S + EVENT_S) * FPS)
    assert seen[0].shape == (32, 40, 3)


def test_a_clip_is_played_there_and_back_without_a_cut(small_data: Path, tmp_path: Path) -> None:
    calm = next(t for t in planned(small_data) if t.name == "normal-calm")
    write(calm, tmp_path / "calm.avi", seed=1)
    levels = [float(frame.mean()) for frame in frames(tmp_path / "calm.avi")]
    assert max(levels) > 200
    assert max(abs(a - b) for a, b in itertools.pairwise(levels)) < 20
