"""The report of a run: what it says, what it shows in a browser, and that it needs nothing else."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media import write_video

from pipeline.alerts.snapshot import encode_snapshot
from pipeline.messages import Alert, AlertState, Caption, FrameStamp, Region
from pipeline.outputs import CameraSource, OutputError, OutputSet
from pipeline.outputs.camera_report import MOST_PICTURES, CameraReport
from pipeline.outputs.cues import Cue, caption_cues
from pipeline.outputs.report import write_report
from pipeline.outputs.scenes import clock, hours, hours_told, scenes
from pipeline.outputs.stage import OutputStage
from pipeline.rules.stage import Judged

START = datetime(2026, 11, 23, 6, 59, 50, tzinfo=timezone.utc)
CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome")
                 if (found := shutil.which(name))), None)  # fmt: skip
HOSTILE = '</script><img src=x onerror="document.title=1"> & *bold* <b>'


def cue(start_s: int, end_s: int, text: str, said: int = 2, severity: str | None = None) -> Cue:
    return Cue(start_s * 1000, end_s * 1000, text, severity, said)


texts = st.sampled_from(["a man walks", "a man is walking", "two cars crash", "a red car", "a dog"])


@given(st.lists(st.tuples(st.integers(1, 40_000), texts), max_size=40))
def test_scenes_hold_every_caption_once_and_in_order(steps: list[tuple[int, str]]) -> None:
    at, said = 0, []
    for step, text in steps:
        at += step
        said.append((at / 1000, text))
    cues = caption_cues(said)
    found = scenes(cues)
    assert sum(sum(scene.shown_ms.values()) for scene in found) == sum(
        each.end_ms - each.start_ms for each in cues
    )
    for one, other in itertools.pairwise(found):
        assert one.start_ms < one.end_ms <= other.start_ms


def test_a_slip_does_not_end_a_scene_and_another_view_does() -> None:
    found = scenes(
        [
            cue(0, 10, "two people talk at the counter"),
            cue(10, 11, "a dog on a beach", said=1),
            cue(11, 30, "two people are standing at a counter"),
            cue(30, 60, "a red car is parked"),
        ]
    )
    assert [(each.start_ms, each.end_ms, each.text) for each in found] == [
        (0, 30_000, "two people are standing at a counter"),
        (30_000, 60_000, "a red car is parked"),
    ]


def test_hours_follow_the_wall_clock_or_the_recording() -> None:
    found = scenes([cue(0, 8, "a man walks"), cue(20, 30, "a red car"), cue(4000, 4001, "a dog")])
    days = [(day, hour, len(group)) for day, hour, group in hours(found, START)]
    assert days == [
        ("2026-11-23", "06:00", 1), ("2026-11-23", "07:00", 1), ("2026-11-23", "08:00", 1)
    ]  # fmt: skip
    assert [(hour, len(group)) for _, hour, group in hours(found, None)] == [
        ("hour 1", 2), ("hour 2", 1)
    ]  # fmt: skip
    assert (clock(372_000), clock(3_661_000), clock(20_000, START)) == (
        "06:12", "1:01:01", "07:00:10"
    )  # fmt: skip


@given(
    st.lists(st.tuples(st.integers(1, 40_000), texts), max_size=20),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),  # noqa: DTZ001 - made aware below
)
def test_hours_together_show_what_the_scenes_do(
    steps: list[tuple[int, str]], begun: datetime
) -> None:
    at, said = 0, []
    for step, text in steps:
        at += step
        said.append((at / 1000, text))
    found = scenes(caption_cues(said))
    for started in (None, begun.replace(tzinfo=timezone.utc)):
        told = hours_told(found, [], started)
        assert len({(each.day, each.hour) for each in told}) == len(told)
        assert [each.first_ms for each in told] == sorted(each.first_ms for each in told)
        assert sum(sum(each.shown_ms.values()) for each in told) == sum(
            scene.end_ms - scene.start_ms for scene in found
        )


def test_a_long_scene_counts_in_every_hour_and_an_alert_where_it_begins() -> None:
    found = scenes([cue(0, 9000, "an empty yard"), cue(9000, 9100, "two men at a fence")])
    alerts = [cue(9050, 9060, "ALERT intruder", severity="critical")]
    told = hours_told(found, alerts, START)
    assert [(each.hour, each.scenes, each.mostly, dict(each.alerts)) for each in told] == [
        ("06:00", 1, "an empty yard", {}),
        ("07:00", 1, "an empty yard", {}),
        ("08:00", 1, "an empty yard", {}),
        ("09:00", 2, "an empty yard", {"critical": 1}),
    ]


def test_clock_times_are_in_the_zone_of_the_camera_also_when_its_clocks_change(
    tmp_path: Path,
) -> None:
    berlin = ZoneInfo("Europe/Berlin")  # from 03:00 back to 02:00 on 2026-10-25 at 01:00 UTC
    begun = datetime(2026, 10, 25, 0, 59, 50, tzinfo=timezone.utc)
    outputs = OutputSet(tmp_path, [CameraSource("gate", zone=berlin)], ("report",))
    for second, text in ((0, "a man walks"), (20, "a red car is parked")):
        stamp = FrameStamp("gate", second, begun + timedelta(seconds=second), 0, float(second))
        outputs.caption(Caption(stamp, text, -1.0))
    outputs.close()
    (camera,) = embedded(tmp_path)
    assert [scene["clock"][:8] for scene in camera["scenes"]] == ["02:59:50", "02:00:10"]
    assert [scene["time"][11:19] for scene in camera["scenes"]] == ["00:59:50", "01:00:10"]
    assert camera["told"].startswith("2026-10-25 02:59:50 to ")
    assert "#### 02:00" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_whole_is_told_by_day_and_hour_of_all_cameras(tmp_path: Path) -> None:
    walk, crash = cue(0, 5, "a man walks"), cue(80_000, 80_009, "two cars crash")
    alert = replace(cue(80_001, 80_004, "ALERT crash", severity="critical"), alert_id="a1")
    gate = CameraReport.of_cues("gate", [walk, crash, replace(alert, rule="crash")], START, None)
    gate = replace(gate, sheets={"a1": "gate.alert-a1.png"})
    yard = CameraReport.of_cues("yard", [cue(0, 5, "a dog")], START, None)
    write_report(tmp_path, [gate, yard, CameraReport.of_cues("none", [], None, None)])
    told = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    whole = [
        (day["day"], hour["hour"], camera["camera"], camera["mostly"], camera["alerts"])
        for day in told["days"]
        for hour in day["hours"]
        for camera in hour["cameras"]
    ]
    assert whole == [
        ("2026-11-23", "06:00", "gate", "a man walks", {}),
        ("2026-11-23", "06:00", "yard", "a dog", {}),
        ("2026-11-24", "05:00", "gate", "two cars crash", {"critical": 1}),
    ]
    (found,) = told["cameras"][0]["alerts"]
    assert (found["time"], found["alert_id"], found["rule"], found["sheet"]) == (
        "2026-11-24T05:13:11.000000Z", "a1", "crash", "gate.alert-a1.png"
    )  # fmt: skip
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    assert (
        "- gate: 2026-11-23 06:59:50 to 2026-11-24 05:13:19: 2 scenes, 1 alert (1 critical)"
        in lines
    )
    assert "- none: no captions" in lines
    entry = "- **05:13:11-05:13:14 ALERT crash** ([contact sheet](gate.alert-a1.png))"
    assert lines.index("### 2026-11-24", lines.index("## gate")) < lines.index(entry)
    assert lines.index(entry) < lines.index("## yard")


def test_an_hour_is_told_by_what_stood_longest_however_it_was_worded() -> None:
    talk, again = "two men talk at a counter", "two men are talking at the counter"
    said, lasting_s = [talk, "a red car", again, "a dog runs", "a red car"], [40, 60, 50, 20, 5]
    ends_s = list(itertools.accumulate(lasting_s))
    spans = zip(ends_s, lasting_s, said, strict=True)
    cues = [cue(end_s - lasts_s, end_s, text) for end_s, lasts_s, text in spans]
    (hour,) = hours_told(scenes(cues), [], None)
    assert hour.seen(2) == [(again, 90_000), ("a red car", 65_000)]
    assert (hour.mostly, len(hour.seen(9))) == (again, 3)


def test_pictures_are_bounded_and_spread() -> None:
    many = [cue(20 * n, 20 * n + 9, "a dog" if n % 2 else "a car") for n in range(1000)]
    times = CameraReport.of_cues("gate", many, None, None).picture_times()
    assert len(times) <= MOST_PICTURES and times[-1] > 0.9 * 20_000_000


def recording(path: Path) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (320, 180))
    for n in range(50):
        writer.write(np.full((180, 320, 3), (0, 0, 250) if n < 25 else (250, 0, 0), np.uint8))
    writer.release()
    return path


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    left = ((0.0, 0.0), (0.4, 0.0), (0.4, 1.0), (0.0, 1.0))
    source = CameraSource("gate", recording(directory / "gate.avi"), masks=(left,))
    outputs = OutputSet(directory / "out", [source], ("report",))
    said = ["a man walks"] * 5 + ["a red car is parked " + HOSTILE] * 5
    for second, text in enumerate(said):
        stamp = FrameStamp("gate", second, START + timedelta(seconds=second), 0, float(second))
        outputs.caption(Caption(stamp, text, -1.0))
    written = outputs.close()
    assert {path.name for path in written} == {"report.html", "report.md", "report.json"}
    return directory / "out"


def started(at_s: float, caption: str = "two men are fighting " + HOSTILE) -> Alert:
    moment = START + timedelta(seconds=at_s)
    return Alert(
        "0123abcd", 1, AlertState.STARTED, "fight", "warning", (),
        FrameStamp("gate", int(at_s), moment, 0, at_s), moment, moment, moment, 1, caption, 0.9, (),
    )  # fmt: skip


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A live camera's report: its pictures are the alerts' own, as the stage hands them."""
    directory = tmp_path_factory.mktemp("live")
    outputs = OutputSet(directory, [CameraSource("gate")], ("report",))
    stage = OutputStage([outputs], keep_picture=outputs.picture)
    said = Caption(FrameStamp("gate", 0, START, 0, 0.0), "a man walks", -1.0)
    green = encode_snapshot(np.full((360, 640, 3), (0, 200, 0), np.uint8), None)
    list(stage.process([Judged(said, ()), Judged(None, (started(0.0),), {"0123abcd": green})]))
    outputs.close()
    return directory


def picture_of(entry: dict[str, Any]) -> np.ndarray[Any, Any]:
    jpeg = np.frombuffer(base64.b64decode(entry["picture"].partition(",")[2]), np.uint8)
    picture = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


def embedded(directory: Path) -> list[dict[str, Any]]:
    page = (directory / "report.html").read_text(encoding="utf-8")
    found = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: list[dict[str, Any]] = json.loads(found[1])
    return data


def test_the_page_holds_pictures_with_masks_and_fetches_nothing(directory: Path) -> None:
    page = (directory / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|<link|<script src", page)
    first, second = embedded(directory)[0]["scenes"]
    for scene, channel in ((first, 2), (second, 0)):
        picture = picture_of(scene)
        assert picture[:, 100:, channel].min() > 200, "not the frame of its time"
        assert picture[:, :60].max() < 40, "the mask is not black"


def test_alerts_show_their_own_snapshot_also_of_a_live_camera(live: Path) -> None:
    (camera,) = embedded(live)
    picture = picture_of(camera["alerts"][0])
    assert picture.shape[1] == 320 and abs(picture.mean(axis=(0, 1)) - (0, 200, 0)).max() < 8
    assert camera["scenes"][0]["picture"] is None
    assert not list(live.glob("*.part"))


def test_a_resumed_run_reports_what_a_run_before_has_finished(tmp_path: Path) -> None:
    gate, yard = CameraSource("gate"), CameraSource("yard")
    jpeg = encode_snapshot(np.zeros((90, 160, 3), np.uint8), None)
    first = OutputSet(tmp_path, [gate, yard], ("report",))
    first.picture(started(0.0), jpeg)
    first.alert(started(0.0))
    first.finish("gate")
    first.drop_journal("gate")
    first.close({"gate": True, "yard": False})
    second = OutputSet(tmp_path, [gate, yard], ("report",), done=["gate"])
    second.alert(started(60.0))  # comes too late to change what is done
    second.close()
    told = embedded(tmp_path)
    assert [len(camera["alerts"]) for camera in told] == [1, 0]
    assert picture_of(told[0]["alerts"][0]).max() < 8
    assert not list(tmp_path.glob("*.part"))


def test_a_contact_sheet_shows_the_snapshot_and_the_recording_around_the_alert(
    tmp_path: Path,
) -> None:
    left = ((0.0, 0.0), (0.4, 0.0), (0.4, 1.0), (0.0, 1.0))
    source = CameraSource("gate", recording(tmp_path / "gate.avi"), masks=(left,))
    outputs = OutputSet(tmp_path / "out", [source], ("report",))
    green = encode_snapshot(np.full((180, 320, 3), (0, 200, 0), np.uint8), None)
    outputs.picture(started(5.0), green)
    outputs.alert(started(5.0))
    (sheet,) = (path for path in outputs.close() if path.suffix == ".png")
    assert sheet.name == "gate.alert-00h00m05s-0123abcd.png"
    assert embedded(tmp_path / "out")[0]["alerts"][0]["sheet"] == sheet.name
    drawn = cv2.imread(str(sheet))
    assert drawn is not None
    places = [(row, column) for row in rows_of(drawn) for column in (8, 336, 664)]
    # From 3 s to 8 s: red until 5 s, then blue; the left of each is masked.
    shown = [int(np.argmax(drawn[row, column + 240])) for row, column in places]
    assert shown == [1, 2, 2, 2, 0, 0, 0, 0, 0]
    assert all(drawn[row, column + 40].max() < 40 for row, column in places[1:])


def rows_of(sheet: np.ndarray[Any, Any]) -> list[int]:
    """Return the middles of a sheet's three rows of pictures, which are 180 high."""
    return [sheet.shape[0] - 16 - 90 - 208 * n for n in (2, 1, 0)]


def test_a_live_cameras_sheet_is_its_snapshot(live: Path) -> None:
    (path,) = live.glob("gate.alert-*.png")
    sheet = cv2.imread(str(path))
    assert sheet is not None
    assert abs(sheet[-100, 100].astype(int) - (0, 200, 0)).max() < 8


def frames_of(path: Path) -> list[np.ndarray[Any, Any]]:
    capture, found = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        found.append(read[1])
    capture.release()
    return found


def test_the_video_shows_captions_alerts_and_their_place_at_their_times(tmp_path: Path) -> None:
    corner = ((0.0, 0.4), (0.2, 0.4), (0.2, 0.6), (0.0, 0.6))
    source = CameraSource("gate", recording(tmp_path / "gate.avi"), masks=(corner,))
    outputs = OutputSet(tmp_path / "out", [source], ("video",))
    outputs.caption(Caption(FrameStamp("gate", 0, START, 0, 0.0), "a man", -1.0))
    placed = replace(started(5.0, "a fight"), region=Region(0.5, 0.25, 0.25, 0.5))
    outputs.alert(placed)
    assert outputs.close() == [tmp_path / "out" / "gate.mp4"]
    frames = frames_of(tmp_path / "out" / "gate.mp4")
    assert len(frames) == 50
    quiet, alert, after = frames[23], frames[30], frames[45]  # at 5 a second: 4.6 s, 6 s and 9 s
    assert all(frame[90, 20].max() < 40 for frame in (quiet, alert, after)), "the mask"
    assert np.argmax(quiet[90, 160]) == 2 and np.argmax(alert[90, 220]) == 0, "not its frame"
    banner, outline = np.s_[1:8, 300:318], np.s_[60:120, 160:162]
    assert quiet[banner][:, :, 2].min() > 200, "a banner before the alert"
    assert alert[banner][:, :, 0].max() < 200, "no banner in the alert"
    assert after[banner][:, :, 0].min() > 200, "a banner after the alert"
    assert alert[outline][:, :, 0].max() < 200 < after[outline][:, :, 0].min()
    assert frames[5][-6:, 250:, 2].max() < 150 < frames[20][-6:, 250:, 2].min(), "the caption"


def test_a_video_keeps_the_times_of_a_recording_whose_rate_varies(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.2, *(3 + n / 10 for n in range(20))]
    blue_from_3 = [np.full((96, 128, 3), (0, 0, 250 * (at >= 3)), np.uint8) for at in times]
    file = write_video(tmp_path / "gate.mp4", times, pictures=blue_from_3)
    (path,) = OutputSet(tmp_path / "out", [CameraSource("gate", file)], ("video",)).close()
    capture = cv2.VideoCapture(str(path))
    frame_s = 1 / capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    frames = frames_of(path)
    blue = next(number for number, frame in enumerate(frames) if frame[48, 64, 0] > 200)
    assert abs(blue * frame_s - 3.0) <= frame_s
    assert abs(len(frames) * frame_s - 5.0) <= 2 * frame_s


def test_a_video_is_made_of_whole_recordings_alone(tmp_path: Path) -> None:
    file = recording(tmp_path / "gate.avi")
    faces = CameraSource("faces", file, pictures=False)
    cameras = [CameraSource("gate", file), CameraSource("live"), faces]
    outputs = OutputSet(tmp_path / "out", cameras, ("video",))
    assert outputs.close({"gate": False, "live": True, "faces": True}) == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["gate.part"]


def test_a_video_never_overwrites_its_recording(tmp_path: Path) -> None:
    file = recording(tmp_path / "gate.avi").rename(tmp_path / "gate.mp4")
    with pytest.raises(OutputError, match="would be overwritten"):
        OutputSet(tmp_path, [CameraSource("gate", file)], ("video",))


def test_no_pictures_where_they_are_not_wanted(tmp_path: Path) -> None:
    source = CameraSource("gate", recording(tmp_path / "gate.avi"), pictures=False)
    outputs = OutputSet(tmp_path / "out", [source], ("report",))
    outputs.caption(Caption(FrameStamp("gate", 0, START, 0, 0.0), "a man walks", -1.0))
    outputs.close()
    assert embedded(tmp_path / "out")[0]["scenes"][0]["picture"] is None


def test_markdown_and_json_say_the_same(directory: Path) -> None:
    told = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    assert [scene["text"] for scene in told["cameras"][0]["scenes"]] == [
        "a man walks", "a red car is parked " + HOSTILE
    ]  # fmt: skip
    assert told["cameras"][0]["scenes"][1]["time"] == "2026-11-23T06:59:55.000000Z"
    days = told["cameras"][0]["days"]
    hours_of = [(day["day"], each) for day in days for each in day["hours"]]
    assert sum(each["scenes"] for _, each in hours_of) >= 2
    assert hours_of[0][1]["mostly"] == "a man walks"
    markdown = (directory / "report.md").read_text(encoding="utf-8")
    for day, each in hours_of:
        assert f"## {day}" in markdown and f"### {each['hour']}" in markdown
    assert re.search(r"^- \d\d:59:50-\d\d:59:55 a man walks$", markdown, re.MULTILINE)
    assert "<img" not in markdown and "\\*bold\\*" in markdown


def shown(page: Path, query: str, hand: str = "") -> str:
    """Return the page as the browser has it, after ``hand`` (JavaScript) has used it."""
    if hand:
        text = page.read_text(encoding="utf-8")
        page = page.with_name("used.html")
        page.write_text(
            text.replace("</body>", f"<script>{hand}</script></body>"), encoding="utf-8"
        )
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
         f"{page.as_uri()}?q={query}"],
        capture_output=True, text=True, timeout=90, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_hand_that_types_and_ticks_filters_the_entries(live: Path) -> None:
    page = live / "report.html"
    typed = (
        "const box = document.getElementById('query'); box.value = 'WALKS';"
        "box.dispatchEvent(new Event('input'));"
    )
    found = shown(page, "", typed)
    assert "1 of 2 entries" in found
    assert re.search(r'<li [^>]*class="alert warning"[^>]*hidden=""', found)
    ticked = shown(page, "", "document.getElementById('alerts').click()")
    assert "1 of 2 entries" in ticked
    assert re.search(r'<li [^>]*class="scene"[^>]*hidden=""', ticked)
    assert "<title>Watchword report</title>" in ticked, "a caption was run"


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_what_is_not_searched_for_is_out_of_the_way(tmp_path: Path) -> None:
    days = [cue(0, 5, "a man walks"), cue(90_000, 90_005, "two cars crash")]
    gate = CameraReport.of_cues("gate", days, START, None)
    yard = CameraReport.of_cues("yard", [cue(0, 5, "a dog")], START, None)
    write_report(tmp_path, [gate, yard])
    everything = shown(tmp_path / "report.html", "")
    assert not re.search(r"<(section|nav|li) [^>]*hidden", everything)
    assert re.findall(r'<li class="day">([^<]*)<', everything) == [
        "2026-11-23", "2026-11-24", "2026-11-23"
    ]  # fmt: skip
    assert ">11-24 07:59<" in everything, "ticks over days name the day"
    found = shown(tmp_path / "report.html", "crash")
    assert re.findall(r'<section id="camera(\d)"[^>]*hidden', found) == ["1"]
    assert re.search(r"<nav [^>]*hidden", found)
    days_shown = re.findall(r'<li class="day"([^>]*)>([^<]*)<', found)
    assert [day for hidden, day in days_shown[:2] if not hidden] == ["2026-11-24"]
    assert len(re.findall(r'<a [^>]*class="scene out"', found)) == 2
    key = (
        "document.activeElement.blur();"
        "document.dispatchEvent(new KeyboardEvent('keydown', {key: '/', cancelable: true}));"
        "document.title = document.activeElement.id;"
    )
    assert "<title>query</title>" in shown(tmp_path / "report.html", "", key)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_goes_to_the_moment_that_it_is_opened_at(directory: Path) -> None:
    page = directory / "report.html"
    moment = "2026-11-23T06:59:57%2B00:00"
    for camera, here in (("gate", 1), ("other", 0)):
        go = f"location.hash = '#at={camera}@{moment}'"
        found = re.findall(r'<li [^>]*class="scene here".*?</li>', shown(page, "", go), re.DOTALL)
        assert len(found) == here
        assert all("a red car is parked" in each and "#t=5" in each for each in found)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_shows_searches_and_runs_no_caption(tmp_path: Path, directory: Path) -> None:
    page = directory / "report.html"
    everything = shown(page, "")
    assert "2 of 2 entries" in everything and "<title>Watchword report</title>" in everything
    assert len(re.findall(r"<img [^>]*src=.data:image/jpeg", everything)) == 2
    assert "1 of 2 entries" in shown(page, "RED%20parked")
    assert "0 of 2 entries" in shown(page, "unicorn")
    alerts = CameraReport.of_cues(
        "gate", [cue(0, 5, "a man"), cue(1, 4, "ALERT fight", severity="critical")], START, None
    )
    write_report(tmp_path, [alerts])
    assert re.search(r'<li [^>]*class="alert critical"', shown(tmp_path / "report.html", "fight"))
