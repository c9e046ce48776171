"""What a person sees: on a terminal, in a pipe, quietly."""

import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.messages import (
    Alert,
    AlertState,
    CameraEvent,
    CameraState,
    Caption,
    Evidence,
    FrameStamp,
)
from pipeline.outputs.summary import CameraSummary, RunSummary
from pipeline.outputs.terminal import CameraInfo, TerminalView

START = datetime(2026, 11, 23, 6, tzinfo=timezone.utc)
BIKES = CameraInfo("bikes", "bikes.mp4", duration_s=10.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def caption(at_s: float, text: str) -> Caption:
    stamp = FrameStamp("bikes", round(at_s * 25), START + timedelta(seconds=at_s), 1, at_s)
    return Caption(stamp, text, -3.0)


def alert(state: AlertState = AlertState.STARTED, text: str = "a man on a bicycle") -> Alert:
    return Alert(
        id="a1", revision=1, state=state, rule="bicycle", severity="warning", tags=(),
        stamp=caption(3.0, text).stamp, first_seen=START, last_seen=START, detected_at=START,
        count=4, caption=text, probability=0.81,
        keywords=(Evidence("bicycle", "bicycle", (11, 18), 0.81),),
    )  # fmt: skip


SUMMARY = RunSummary(
    (CameraSummary("bikes", 250, 200, 0, 45, {"stale": 5}, {}, 10, 9, {"stale": 1}),),
    {"bicycle": 1},
    wall_s=4.0,
)


@pytest.fixture
def plain() -> Iterator[tuple[TerminalView, io.StringIO, Clock]]:
    file, clock = io.StringIO(), Clock()
    with TerminalView(Console(file=file, width=80), [BIKES], clock=clock) as view:
        yield view, file, clock


def test_in_a_pipe_captions_are_plain_lines_one_a_second(
    plain: tuple[TerminalView, io.StringIO, Clock],
) -> None:
    view, file, clock = plain
    for step in range(30):
        view.caption(caption(float(step), "a man on a bicycle " * 8))
        clock.now += 0.125
    lines = file.getvalue().splitlines()
    assert lines[0] == "watching bikes: bikes.mp4"
    assert [line[:5] for line in lines[1:]] == ["00:00", "00:08", "00:16", "00:24"]
    assert "\x1b" not in file.getvalue()


def test_in_a_pipe_progress_is_said_now_and_then(
    plain: tuple[TerminalView, io.StringIO, Clock],
) -> None:
    view, file, clock = plain
    view.progress("bikes", 1.0)
    clock.now += 10.0
    view.progress("bikes", 5.0)
    assert file.getvalue().splitlines()[1:] == ["bikes: 50% of 00:10, 0.5x, 00:10 left"]


def test_nothing_hostile_reaches_the_terminal(
    plain: tuple[TerminalView, io.StringIO, Clock],
) -> None:
    view, file, _ = plain
    view.caption(caption(1.0, "a [red]man[/red] \x1b]0;owned\x07\n\x9b31m"))
    view.alert(alert(text="a \x1b[2Jman a bicycle\r\n"))
    view.message("hello\x1b[31m [link]")
    text = file.getvalue()
    assert "a [red]man[/red]" in text and "hello [31m [link]" in text
    assert not set(text) & {"\x1b", "\x07", "\r", "\x9b"}


def test_quiet_prints_alerts_only() -> None:
    file = io.StringIO()
    with TerminalView(Console(file=file, width=80), [BIKES], quiet=True) as view:
        view.caption(caption(1.0, "a man"))
        view.progress("bikes", 5.0)
        view.message("hello")
        view.alert(alert())
        view.summary(SUMMARY)
    line = "ALERT warning bicycle  bikes  00:03  a man on a bicycle  (0.81)\n"
    assert file.getvalue() == line


def test_an_escalation_is_no_new_alert_and_opens_none() -> None:
    file = io.StringIO()
    view = TerminalView(Console(file=file, width=80), [BIKES])
    for state in (AlertState.STARTED, AlertState.ENDED, AlertState.ESCALATED):
        view.alert(alert(state))
    lines = file.getvalue().splitlines()
    assert lines[-1].startswith("ALERT warning not answered: bicycle  bikes")
    assert not view._rows["bikes"].open_alerts


def test_the_table_at_80_columns() -> None:
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True)
    view = TerminalView(console, [BIKES, CameraInfo("gate", "rtsp://host/1")])
    view.caption(caption(61.0, "a man on a bicycle rides down a street with many parked cars"))
    view.alert(alert())
    out = Console(file=io.StringIO(), width=80)
    with out.capture() as captured:
        out.print(view.drawn())
    lines = [line.rstrip() for line in captured.get().splitlines()]
    assert lines == [
        "",
        " camera  time      caption                                      prob.  state",
        " ──────────────────────────────────────────────────────────────────────────────",
        " bikes   01:01     a man on a bicycle rides down a street with   0.81  ALERT",
        "                   many parked cars",
        " gate              …                                                   waiting",
        "",
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_view_runs_and_ends_with_the_books(width: int) -> None:
    file = io.StringIO()
    console = Console(file=file, width=width, height=24, force_terminal=True)
    with TerminalView(console, [BIKES]) as view:
        view.caption(caption(1.0, "a man on a bicycle"))
        view.progress("bikes", 5.0)
        view.alert(alert())
        view.alert(alert(AlertState.ENDED))
        view.camera_event(
            CameraEvent("bikes", CameraState.OFFLINE, "no new frame for 5 s", START, None, 0)
        )
        view.ended("bikes")
        view.summary(SUMMARY)
    text = file.getvalue()
    assert "ALERT bicycle" in text
    books = text[text.rindex("frames of") :]
    for wanted in ("250", "bikes: frames dropped: stale 5", "9 captions in 4.0 s", "1 alert: "):
        assert wanted in books


def test_the_books_of_long_names_keep_their_heads_at_80_columns() -> None:
    file = io.StringIO()
    books = CameraSummary("carpark_2026-11-23_06-00-00", 90_000, 81_000, 1, 9_000, {}, {}, 1, 1)
    summary = RunSummary((books, books), {}, wall_s=4.0)
    TerminalView(Console(file=file, width=80), []).summary(summary)
    heads = next(line for line in file.getvalue().splitlines() if "frames of" in line)
    terms = ("grabbed", "unsampled", "skipped", "dropped", "failed", "encoded", "captions")
    assert heads.split()[2:] == list(terms)


def test_of_a_folder_of_recordings_the_files_are_counted(
    plain: tuple[TerminalView, io.StringIO, Clock],
) -> None:
    view, file, _ = plain
    ends = ("vtt", "jsonl", "events.jsonl", "alert-00h00m02s-0123abcd.png")
    made = [Path(f"out/cam.{n}.{end}") for n in range(9) for end in ends]
    view.summary(replace(SUMMARY, files=(*made, Path("out/report.html"))))
    told = [line.strip() for line in file.getvalue().splitlines() if line.startswith("  out/")]
    told += [line.strip() for line in file.getvalue().splitlines() if line.startswith("  9 ")]
    assert sorted(told) == [
        "9 out/*.events.jsonl", "9 out/*.jsonl", "9 out/*.png", "9 out/*.vtt", "out/report.html"
    ]  # fmt: skip


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    with TerminalView(Console(file=file, width=80, force_terminal=True), [BIKES]) as view:
        view.alert(alert())
        view.summary(SUMMARY)
    assert not any(f"\x1b[{code}m" in file.getvalue() for code in range(30, 48))


@pytest.mark.timeout(60)
def test_many_threads_may_call_it() -> None:
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True)
    with TerminalView(console, [BIKES]) as view:

        def work() -> None:
            for step in range(50):
                view.caption(caption(step / 10, "a man"))
                view.progress("bikes", step / 10)
                view.message("hello")

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
