"""Output files: what goes in comes out, whole or not at all, also after a kill."""

import errno
import html
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from datetime import datetime, timedelta, timezone
from io import FileIO
from pathlib import Path
from typing import ClassVar

import pysubs2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.messages import (
    Alert,
    AlertState,
    Alternative,
    CameraEvent,
    CameraState,
    Caption,
    Evidence,
    FrameStamp,
    Word,
)
from pipeline.outputs import (
    CameraOutput,
    CameraSource,
    CameraSummary,
    OutputError,
    OutputSet,
    RunSummary,
    write_summary,
)
from pipeline.outputs.cues import alert_cues, caption_cues
from pipeline.outputs.journal import Journal, read_journal
from pipeline.outputs.lines import caption_line, printable, to_json_line, utc_moment, utc_text
from pipeline.outputs.meaning import says_the_same
from pipeline.outputs.subtitles import to_srt, to_webvtt

START = datetime(2026, 11, 23, 6, tzinfo=timezone.utc)
ALL = ("vtt", "srt", "jsonl", "coco")


def stamp(at_s: float, camera: str = "lobby", live: bool = False) -> FrameStamp:
    moment = START + timedelta(seconds=at_s)
    position = None if live else at_s
    return FrameStamp(camera, round(at_s * 25), moment, 5_000_000_000 + round(at_s * 1e9), position)


def caption(at_s: float, text: str, camera: str = "lobby", live: bool = False) -> Caption:
    return Caption(stamp(at_s, camera, live), text, -1.0, (Word("a", 0.5),), model="tiny@0")


def alert(at_s: float, state: AlertState, revision: int, first_s: float) -> Alert:
    text = "two men are fighting"
    return Alert(
        id="a1", revision=revision, state=state, rule="fight", severity="critical",
        tags=("fight",), stamp=stamp(at_s), first_seen=START + timedelta(seconds=first_s),
        last_seen=START + timedelta(seconds=at_s), detected_at=START, count=revision,
        caption=text, probability=0.8, keywords=(Evidence("fight", "fighting", (12, 20), 0.8),),
    )  # fmt: skip


def test_a_caption_line_has_the_keys_of_the_interface_in_order() -> None:
    made = Caption(stamp(1.5), "a dog", -0.5, (Word("a", 0.9),), (Alternative("a cat", -2.0),), "m")
    line = caption_line(made)
    assert list(line) == [
        "type", "camera", "sequence", "time", "media_time_s", "text", "probability",
        "words", "alternatives", "model",
    ]  # fmt: skip
    assert line["time"] == "2026-11-23T06:00:01.500000Z"
    assert line["probability"] == pytest.approx(0.606531)
    assert line["alternatives"] == [{"text": "a cat", "probability": 0.135335}]
    assert caption_line(caption(1.0, "a", live=True))["media_time_s"] is None


@given(st.text())
def test_any_text_survives_a_json_line(text: str) -> None:
    line = to_json_line({"text": text})
    assert line.endswith("\n") and len(line.splitlines()) == 1
    assert json.loads(line) == {"text": text}


times = st.lists(st.integers(0, 200_000), unique=True, min_size=1, max_size=25).map(sorted)
words = st.sampled_from(
    ["a man walks", "a man is walking", "two cars crash", "nobody is there", "a red car", ""]
)


@settings(deadline=None)
@given(st.data())
def test_cues_are_ordered_do_not_overlap_and_cover_every_caption(data: st.DataObject) -> None:
    at_ms = data.draw(times)
    texts = [data.draw(words | st.text(max_size=30)) for _ in at_ms]
    said = [(ms / 1000, text) for ms, text in zip(at_ms, texts, strict=True)]
    cues = caption_cues(said)
    assert all(cue.start_ms < cue.end_ms for cue in cues)
    assert all(one.end_ms <= two.start_ms for one, two in itertools.pairwise(cues))
    assert sum(cue.said for cue in cues) == len(said)
    for ms, text in zip(at_ms, texts, strict=True):
        covering = [cue for cue in cues if cue.start_ms <= ms < cue.end_ms]
        assert len(covering) == 1 and says_the_same(covering[0].text, text)


@settings(deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=8))
def test_any_text_survives_webvtt_and_srt(texts: list[str]) -> None:
    cues = [c for i, text in enumerate(texts) for c in caption_cues([(i * 20.0, text)])]
    wanted = [t for t in (printable(text).replace("\\", "⧵") for text in texts) if t]
    vtt = pysubs2.SSAFile.from_string(to_webvtt(cues), format_="vtt", keep_html_tags=True)
    assert [html.unescape(event.text) for event in vtt] == wanted
    srt = pysubs2.SSAFile.from_string(to_srt(cues), format_="srt", keep_html_tags=True)
    alike = str.maketrans("<>{}", "‹›()")
    assert [event.text for event in srt] == [text.translate(alike) for text in wanted]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("two men are talking at the counter", "two men talk at a counter", True),
        ("a person rides a bike down the street", "a person riding a bicycle down the road", True),
        ("a man is standing in a room", "a car is driving on a road", False),
        ("a man in a room", "no man in a room", False),
        ("a man holds a knife", "a man holds a phone", False),
    ],
)
def test_captions_are_merged_by_meaning(first: str, second: str, same: bool) -> None:
    assert says_the_same(first, second) is same


def test_times_that_step_back_keep_the_order() -> None:
    cues = caption_cues([(10.0, "a dog"), (2.0, "two cars crash"), (3.0, "a red boat")])
    starts = [cue.start_ms for cue in cues]
    assert starts == sorted(set(starts)) and len(cues) == 3


def test_an_alert_is_one_cue_from_its_first_frame_to_its_last(tmp_path: Path) -> None:
    output = CameraOutput(tmp_path, CameraSource("lobby"), ALL)
    output.caption(caption(20.0, "two men are fighting"))
    output.alert(alert(20.0, AlertState.STARTED, 1, 12.0))
    output.alert(alert(25.0, AlertState.UPDATED, 2, 12.0))
    output.alert(alert(25.0, AlertState.UPDATED, 2, 12.0))
    output.alert(alert(31.0, AlertState.ENDED, 3, 12.0))
    output.close(complete=True)
    text = (tmp_path / "lobby.vtt").read_text("utf-8")
    assert "00:00:12.000 --> 00:00:31.000\nALERT fight (critical): two men are fighting" in text
    events = [json.loads(line) for line in (tmp_path / "lobby.events.jsonl").open()]
    assert [event["state"] for event in events] == ["started", "updated", "ended"]


def test_a_short_alert_stays_long_enough_to_read() -> None:
    one = {"at_s": 5.0, "alert": {"alert_id": "x", "rule": "r", "severity": "info", "caption": "c"}}
    one["alert"] |= dict.fromkeys(
        ("time", "first_seen", "last_seen"), "2026-11-23T06:00:00.000000Z"
    )
    assert [(cue.start_ms, cue.end_ms) for cue in alert_cues([one])] == [(5000, 8000)]


def test_all_files_are_there_at_the_end_and_nothing_else(tmp_path: Path) -> None:
    with_two = [CameraSource("lobby"), CameraSource("gate")]
    outputs = OutputSet(tmp_path, with_two, ALL)
    outputs.caption(caption(1.0, "a dog"))
    outputs.caption(caption(1.0, "a cat", camera="gate"))
    assert names(tmp_path) == ["gate.part", "lobby.part"]
    files = outputs.close()
    endings = [".vtt", ".srt", ".jsonl", ".events.jsonl", ".coco.json"]
    wanted = sorted(name + end for name in ("gate", "lobby") for end in endings)
    assert names(tmp_path) == wanted == sorted(path.name for path in files)
    assert json.loads((tmp_path / "gate.coco.json").read_text()) == [
        {"image_id": "gate:25", "caption": "a cat"}
    ]


def test_a_camera_that_comes_and_goes_for_months_fills_no_memory(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "gate.part", "gate")

    def events(numbers: range) -> list[bool]:
        return [journal.event(f"gate:offline:{number}", {"kind": "camera"}) for number in numbers]

    assert all(events(range(1500)))
    tracemalloc.start()
    try:
        assert all(events(range(1500, 4500)))
        grown_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # What was remembered before was not traced, so a full thousand of keys shows: 0.1 MB.
    assert grown_bytes < 150_000
    assert not any(events(range(4490, 4500)))  # its grabber died and began again
    journal.close()


def test_without_a_caption_the_files_are_valid_and_empty(tmp_path: Path) -> None:
    CameraOutput(tmp_path, CameraSource("lobby"), ALL).close(complete=True)
    assert (tmp_path / "lobby.vtt").read_text().startswith("WEBVTT")
    assert json.loads((tmp_path / "lobby.coco.json").read_text()) == []
    assert (tmp_path / "lobby.jsonl").read_text() == ""


def test_live_subtitles_count_from_the_start_of_the_run(tmp_path: Path) -> None:
    source = CameraSource("lobby", started_monotonic_ns=5_000_000_000)
    output = CameraOutput(tmp_path, source, ("vtt",))
    output.caption(caption(7.0, "a dog", live=True))
    output.close(complete=True)
    assert "00:00:07.000 -->" in (tmp_path / "lobby.vtt").read_text()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_what_a_run_before_left_is_not_mixed_with_this_one(tmp_path: Path) -> None:
    killed = CameraOutput(tmp_path, CameraSource("lobby"), ("jsonl",))
    killed.caption(caption(1.0, "a dog"))
    killed.release()
    output = CameraOutput(tmp_path, CameraSource("lobby"), ("jsonl",))
    output.caption(caption(2.0, "a cat"))
    output.caption(caption(2.0, "a cat"))  # its grabber died and began again
    output.close(complete=True)
    (line,) = (tmp_path / "lobby.jsonl").read_text().splitlines()
    assert json.loads(line)["text"] == "a cat"


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 4000))
def test_a_journal_cut_anywhere_gives_whole_records_up_to_there(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    output = CameraOutput(tmp_path_factory.mktemp("cut"), CameraSource("lobby"), ALL)
    for at in range(12):
        output.caption(caption(float(at), "two men walk"))
    output.release()
    whole = list(read_journal(output.journal_path))
    os.truncate(output.journal_path, min(cut, output.journal_path.stat().st_size))
    kept = list(read_journal(output.journal_path))
    assert kept == whole[: len(kept)]
    assert len(kept) == output.journal_path.read_bytes().count(b"\n")


def test_a_recordings_events_are_in_the_order_of_their_times(tmp_path: Path) -> None:
    source = CameraSource("lobby", file=tmp_path / "lobby.mp4")
    output = CameraOutput(tmp_path, source, ("jsonl",))
    output.alert(alert(20.0, AlertState.STARTED, 1, 12.0))
    blind = START + timedelta(seconds=15)  # known to another thread, later than it was
    output.camera_event(CameraEvent("lobby", CameraState.BLIND, "covered", blind, None, 0))
    output.close(complete=True)
    events = [json.loads(line) for line in (tmp_path / "lobby.events.jsonl").open()]
    assert [event.get("state") for event in events] == [None, "started"]


@pytest.mark.fault
def test_a_kill_leaves_nothing_under_a_final_name(tmp_path: Path) -> None:
    program = f"""
        import sys, time
        sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
        from test_outputs import *
        output = CameraOutput(Path({str(tmp_path)!r}), CameraSource("lobby"), ALL)
        for i in range(10**6):
            output.caption(caption(float(i), "a dog"))
            if i == 50:
                print("going", flush=True)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE
    )
    assert child.stdout is not None and child.stdout.readline() == b"going\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert names(tmp_path) == ["lobby.part"]
    kept = [each["line"]["sequence"] for each in read_journal(tmp_path / "lobby.part", "caption")]
    assert kept == [25 * at for at in range(len(kept))] and len(kept) > 50


def test_a_failed_write_leaves_the_old_file_and_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lobby.vtt").write_text("old")
    output = CameraOutput(tmp_path, CameraSource("lobby"), ("vtt",))
    output.caption(caption(1.0, "a dog"))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"lobby\.vtt: the disk is full; free some space"):
        output.close(complete=True)
    assert contents(tmp_path)["lobby.vtt"] == b"old"
    assert names(tmp_path) == ["lobby.part", "lobby.vtt"]


@pytest.mark.fault
def test_a_disk_that_fills_up_leaves_whole_lines_only(tmp_path: Path) -> None:
    program = f"""
        import resource, signal, sys
        sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
        from test_outputs import *
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        output = CameraOutput(Path({str(tmp_path)!r}), CameraSource("lobby"), ALL)
        for i in range(100):
            output.caption(caption(float(i), "a dog"))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "OutputError: cannot write" in child.stderr and "disk is full" in child.stderr
    journal = (tmp_path / "lobby.part").read_bytes()
    assert journal.endswith(b"\n") and 1000 < len(journal) <= 2000
    assert all(json.loads(line) for line in journal.splitlines())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_while_running_is_said(tmp_path: Path) -> None:
    output = CameraOutput(tmp_path, CameraSource("lobby"), ("vtt",))
    (tmp_path / "lobby.part").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="the disk is full"):
        output.caption(caption(1.0, "a dog"))


class Disk(FileIO):
    """A file on a disk that has room for ``room`` bytes; a torn line may be left on it."""

    room: ClassVar[int] = 10**9
    keeps_torn_lines: ClassVar[bool] = False

    def write(self, line: bytes) -> int:
        written = super().write(line[: Disk.room])
        Disk.room -= written
        if written == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written

    def truncate(self, size: int | None = None) -> int:
        if Disk.keeps_torn_lines and Disk.room == 0:
            raise OSError(errno.EIO, "Input/output error")
        return super().truncate(size)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> type[Disk]:
    monkeypatch.setattr("pipeline.outputs.journal.FileIO", Disk)
    monkeypatch.setattr(Disk, "room", 10**9)
    monkeypatch.setattr(Disk, "keeps_torn_lines", False)
    return Disk


@pytest.mark.parametrize("torn", [False, True])
def test_a_disk_that_is_full_for_a_while_makes_a_gap_and_ends_nothing(
    tmp_path: Path,
    disk: type[Disk],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    torn: bool,
) -> None:
    monkeypatch.setattr("pipeline.outputs.gaps._QUIET_S", 0.0)
    disk.keeps_torn_lines = torn
    outputs = OutputSet(tmp_path, [CameraSource("lobby"), CameraSource("gate")], ("jsonl", "vtt"))
    outputs.caption(caption(1.0, "a dog"))
    assert outputs.problem is None
    disk.room = 100
    for at in range(2, 6):
        outputs.caption(caption(float(at), "a cat"))
    outputs.alert(alert(6.0, AlertState.STARTED, 1, 6.0))
    gone = CameraEvent("gate", CameraState.OFFLINE, "no frames", START, None, 0)
    outputs.camera_event(gone)
    assert "the disk is full" in (outputs.problem or "")
    disk.room = 10**9
    outputs.caption(caption(7.0, "a cow"))
    outputs.caption(caption(7.0, "a cow", camera="gate"))
    assert outputs.problem is None
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert ("Input/output error" if torn else "the disk is full; free some space") in said[0]
    assert "can be written again" in said[1]
    lost = {(key[0], key[1]): count for key, count in outputs.missing().items()}
    assert lost == {
        ("lobby", "captions"): 4, ("lobby", "alerts"): 1, ("gate", "camera events"): 1,
    }  # fmt: skip
    assert torn or {reason for _, _, reason in outputs.missing()} == {"disk_full"}
    assert outputs.lacks("lobby")
    assert "gate: camera events 1" in (outputs.missing_told() or "")
    outputs.close()
    lines = (tmp_path / "lobby.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["a dog", "a cow"]


def test_a_disk_that_takes_a_line_now_and_then_is_told_once(
    tmp_path: Path, disk: type[Disk], caplog: pytest.LogCaptureFixture
) -> None:
    outputs = OutputSet(tmp_path, [CameraSource("lobby")], ("jsonl",))
    for at in range(10):
        disk.room = 10**9 if at % 2 else 0
        outputs.caption(caption(float(at), "a dog"))
    assert len(caplog.records) == 1
    assert outputs.missing() == {("lobby", "captions", "disk_full"): 5}


def test_files_without_a_gap_say_nothing(tmp_path: Path) -> None:
    outputs = OutputSet(tmp_path, [CameraSource("lobby")], ("jsonl",))
    outputs.caption(caption(1.0, "a dog"))
    outputs.picture(alert(1.0, AlertState.STARTED, 1, 1.0), b"no report shows it")
    assert outputs.missing() == {}
    assert outputs.missing_told() is None
    assert not outputs.lacks("lobby")


def test_a_directory_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="there is a file of that name"):
        CameraOutput(tmp_path / "out", CameraSource("lobby"), ("vtt",))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="permission denied"):
        CameraOutput(tmp_path / "out", CameraSource("lobby"), ("vtt",))


def test_unknown_formats_and_colliding_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="format avi cannot be written; choose from vtt"):
        OutputSet(tmp_path, [CameraSource("a")], ("vtt", "avi"))
    with pytest.raises(OutputError, match=r"cameras a and a\.events would both write"):
        OutputSet(tmp_path, [CameraSource("a"), CameraSource("a.events")], ("jsonl",))


def test_the_recording_itself_is_never_overwritten(tmp_path: Path) -> None:
    recording = tmp_path / "lobby.srt"
    recording.write_bytes(b"footage")
    with pytest.raises(OutputError, match="is the recording itself"):
        CameraOutput(tmp_path, CameraSource("lobby", file=recording), ("srt",))
    assert recording.read_bytes() == b"footage"


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_ffmpeg_reads_our_webvtt_and_turns_it_into_srt_and_back(tmp_path: Path) -> None:
    cues = caption_cues([(0.5, "a <b> & c --> d"), (5.0, "two cars crash"), (9.0, "nobody")])
    (tmp_path / "a.vtt").write_text(to_webvtt(cues), encoding="utf-8")
    for source, target in (("a.vtt", "b.srt"), ("b.srt", "c.vtt")):
        command = ["ffmpeg", "-v", "error", "-y", "-i", source, target]
        subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    back = pysubs2.load(str(tmp_path / "c.vtt"), keep_html_tags=True)
    assert [(e.start, e.end) for e in back] == [(cue.start_ms, cue.end_ms) for cue in cues]
    assert [e.text for e in back][1:] == ["two cars crash", "nobody"]


def test_the_summary_adds_up(tmp_path: Path) -> None:
    one = CameraSummary("a", 10, 4, 1, 3, {"stale": 1}, {"corrupt": 1}, 3, 2, {"stale": 1})
    two = CameraSummary("b", 5, 5, media_s=2.0, dropped={"stale": 0})
    run = RunSummary((one, two), {"fight": 2}, wall_s=4.0)
    assert one.frames_in_flight == 0 and one.windows_in_flight == 0
    assert run.total.grabbed == 15 and run.total.dropped == {"stale": 1}
    read = json.loads(write_summary(tmp_path, run).read_text())
    assert read["type"] == "summary" and read["captions_per_second"] == 0.5
    frames = read["cameras"][0]["frames"]
    gone = sum(frames["dropped"].values()) + sum(frames["failed"].values())
    assert frames["grabbed"] == frames["unsampled"] + frames["skipped"] + frames["encoded"] + gone


@given(st.integers(0, 4 * 10**15), st.integers(-14 * 60, 14 * 60))
def test_a_time_that_is_written_is_read_again(microseconds: int, zone_minutes: int):
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    moment = epoch + timedelta(microseconds=microseconds)
    local = moment.astimezone(timezone(timedelta(minutes=zone_minutes)))
    assert utc_moment(utc_text(local)) == moment
