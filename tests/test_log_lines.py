"""Log lines go past a terminal that was stopped."""

from __future__ import annotations

import io
import logging
import sys
import threading

import pytest

from pipeline.log_lines import LogLines


class Stopped(io.StringIO):
    """A terminal that takes nothing until it is let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on, self.reached = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        assert self.goes_on.wait(60)
        return super().write(text)


def test_who_logs_does_not_wait_for_a_stopped_terminal(monkeypatch: pytest.MonkeyPatch):
    terminal = Stopped()
    monkeypatch.setattr(sys, "stderr", terminal)
    handler = LogLines(most_waiting=10)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    for number in range(100):  # would wait for ever
        handler.handle(logging.makeLogRecord({"levelname": "WARNING", "msg": f"line {number}"}))
        assert terminal.reached.wait(60)
    terminal.goes_on.set()
    handler.flush()
    lines = terminal.getvalue().splitlines()
    told = [line for line in lines if "were lost" in line]
    written = [line for line in lines if line.startswith("WARNING line ")]
    assert written == [f"WARNING line {number}" for number in range(len(written))]
    assert told == ["89 log lines were lost: nobody read them"]
    assert len(written) == 11


def test_every_line_is_written_in_order_before_a_flush_is_over(
    capsys: pytest.CaptureFixture[str],
):
    handler = LogLines()
    for number in range(500):
        handler.handle(logging.makeLogRecord({"msg": "line %s", "args": (number,)}))
    handler.flush()
    assert capsys.readouterr().err.splitlines() == [f"line {number}" for number in range(500)]
