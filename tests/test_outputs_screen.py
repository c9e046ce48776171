"""What is shown goes past a reader that has stopped, and the run goes on."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from test_outputs import alert, caption
from waiting import until

from pipeline.channel import Channel
from pipeline.messages import Alert, AlertState, CameraEvent, Caption
from pipeline.outputs import CameraSource, OutputSet
from pipeline.outputs.screen import Screen
from pipeline.outputs.stage import OutputStage
from pipeline.rules.stage import Judged
from pipeline.sinks import Printer
from pipeline.worker import Inlet, Worker


class Shown:
    """A display that stands still while ``read`` is not set."""

    def __init__(self, waited_for: bool = False) -> None:
        self.read, self.calls = threading.Event(), []
        self.waited_for, self.given_up = waited_for, 0

    def _show(self, *call: object) -> None:
        self.read.wait(60)
        self.calls.append(call)

    def caption(self, caption: Caption) -> None:
        self._show("caption", caption.text)

    def alert(self, alert: Alert) -> None:
        self._show("alert", alert.revision)

    def camera_event(self, event: CameraEvent) -> None:
        self._show("camera", event.camera)

    def progress(self, camera: str, position_s: float, duration_s: float | None = None) -> None:
        self._show("progress", camera, position_s)

    def ended(self, camera: str) -> None:
        self._show("ended", camera)

    def message(self, text: str) -> None:
        self._show("message", text)

    def give_up(self) -> bool:
        self.given_up += 1
        return not self.waited_for


def some_captions(count: int) -> list[Caption]:
    return [caption(float(number), f"a dog {number}") for number in range(count)]


def test_a_reader_that_keeps_up_sees_everything_in_order_and_the_same_bytes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = [*some_captions(50), alert(51.0, AlertState.STARTED, 1, 51.0)]
    seen = []
    for view in (Printer(), screen := Screen(Printer())):
        if view is screen:
            screen.start()
        for each in made:
            view.alert(each) if isinstance(each, Alert) else view.caption(each)
        screen.drain()
        seen.append(capsys.readouterr().out)
    screen.close()
    assert seen[0] == seen[1] != ""
    assert screen.dropped() == {}
    assert screen.error is None


def test_before_the_start_and_to_other_views_everything_goes_at_once() -> None:
    shown = Shown()
    shown.read.set()
    screen = Screen(shown)
    screen.message("1 of 2 were finished by a run before")
    assert shown.calls == [("message", "1 of 2 were finished by a run before")]

    class Callbacks:
        """A program's: what it raises is for the stage that called, and no thread is made."""

        def caption(self, caption: Caption) -> None:
            raise RuntimeError("no more")

    screen, threads = Screen(Callbacks()), threading.active_count()  # type: ignore[arg-type]
    screen.start()
    assert threading.active_count() == threads
    with pytest.raises(RuntimeError, match="no more"):
        screen.caption(caption(1.0, "a dog"))
    screen.close()


def test_a_reader_that_stops_loses_captions_at_last_and_is_told_how_many() -> None:
    shown, first = Shown(), alert(51.0, AlertState.STARTED, 1, 51.0)
    screen = Screen(shown, most_waiting=10)
    screen.start()
    for each in some_captions(30):
        screen.caption(each)
        screen.progress("lobby", each.stamp.position_s or 0.0, 60.0)
    screen.alert(first)
    assert screen.dropped() == {"captions": 30 - 9}  # and the progress, whose newest is enough
    shown.read.set()
    screen.close()
    kinds = [call[0] for call in shown.calls]
    texts = [call[1] for call in shown.calls if call[0] == "caption"]
    assert texts == [f"a dog {number}" for number in range(9)]
    assert kinds.count("alert") == 1
    assert [call for call in shown.calls if call[0] == "progress"] == [("progress", "lobby", 29.0)]
    assert shown.calls[-1] == (
        "message", "21 lines were not shown: the output was not read fast enough",
    )  # fmt: skip
    assert screen.error is None


def test_recordings_wait_for_a_slow_reader_and_not_for_one_who_has_stopped() -> None:
    slow = Shown()
    screen = Screen(slow, waits=True, most_waiting=2, patience_s=30.0)
    screen.start()
    threading.Timer(0.3, slow.read.set).start()
    for each in some_captions(20):
        screen.caption(each)
    screen.close()
    assert len(slow.calls) == 20
    assert screen.dropped() == {}

    live = Shown()
    screen = Screen(live, waits=True, most_waiting=2)
    screen.start()
    screen.waits = False  # a live camera has been added to the recordings
    for each in some_captions(20):
        screen.caption(each)
    assert screen.dropped() == {"captions": 18}
    live.read.set()
    screen.close()

    stopped = Shown()
    screen = Screen(stopped, waits=True, most_waiting=2, patience_s=2.0)
    screen.start()
    for each in some_captions(500):  # waiting for each would take a quarter of an hour
        screen.caption(each)
    assert screen.dropped() == {"captions": 498}
    stopped.read.set()
    screen.close()
    assert stopped.calls[-1][0] == "message"


def test_where_nobody_reads_at_the_end_a_pipe_is_given_up_and_a_terminal_is_waited_for() -> None:
    pipe = Shown()
    screen = Screen(pipe, patience_s=0.1)
    screen.start()
    for each in some_captions(3):
        screen.caption(each)
    screen.drain()
    screen.close()
    assert str(screen.error) == "nobody reads the output; not shown: captions 3"
    assert screen.dropped() == {"captions": 3}
    assert pipe.given_up == 1
    pipe.read.set()

    terminal = Shown(waited_for=True)
    screen = Screen(terminal, patience_s=0.1)
    screen.start()
    for each in some_captions(3):
        screen.caption(each)
    screen.drain()
    assert terminal.calls == []
    threading.Timer(0.3, terminal.read.set).start()
    screen.close()
    assert screen.error is None
    assert len(terminal.calls) == 3


@pytest.mark.parametrize("raised", [BrokenPipeError("Broken pipe"), SystemExit(1)])
def test_a_display_that_fails_is_told_and_holds_up_nobody(raised: BaseException) -> None:
    class Gone(Shown):
        def caption(self, caption: Caption) -> None:
            raise raised

    screen = Screen(Gone(), most_waiting=1)
    screen.start()
    for each in some_captions(5):
        screen.caption(each)
    screen.close()
    assert isinstance(screen.error, BrokenPipeError)


class Rules:
    """Stands for the rule stage: lets everything through, and counts."""

    name = "rules"

    def __init__(self) -> None:
        self.judged = 0

    def process(self, items: Sequence[Judged]) -> Iterable[Judged]:
        for item in items:
            self.judged += 1
            yield item

    def flush(self) -> Iterable[Judged]:
        return ()

    def open(self) -> None:
        pass

    close = open


def test_a_stopped_reader_of_stdout_holds_up_neither_rules_nor_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w"))
    files = OutputSet(tmp_path, [CameraSource("lobby")], ("jsonl",))
    captions: Channel[Judged] = Channel("captions", 64)
    judged: Channel[Judged] = Channel("judged", 64)
    screen, rules = Screen(Printer()), Rules()
    failed: list[Any] = []
    workers = [
        Worker(rules, Inlet(captions), judged, failed.append),
        Worker(OutputStage([files, screen]), Inlet(judged, 64), None, failed.append),
    ]
    screen.start()
    for worker in reversed(workers):
        worker.start()
    count = 3000  # of some hundred bytes each: far more than a pipe holds
    for each in some_captions(count):
        captions.put(Judged(each, ()))
    captions.close()
    for worker in workers:
        until(lambda worker=worker: worker.join(0.1), 60)
    assert rules.judged == count
    assert not failed
    files.close()
    assert len((tmp_path / "lobby.jsonl").read_text().splitlines()) == count
    lost = screen.dropped()["captions"]
    read: list[str] = []
    with os.fdopen(reader) as pipe:
        taker = threading.Thread(target=lambda: read.extend(pipe))
        taker.start()
        screen.close()
        sys.stdout.close()
        taker.join(60)
    assert [json.loads(line)["text"] for line in read] == [f"a dog {n}" for n in range(len(read))]
    assert 0 < lost == count - len(read)
    assert f"{lost} lines were not shown" in capsys.readouterr().err
