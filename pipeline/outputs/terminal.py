"""What a person sees while a run goes: a live table, progress bars, alerts, a summary.

On a terminal it is redrawn in place; into a pipe or file it is plain lines without control
codes. Methods may be called from any thread.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import TaskID
from rich.text import Text

from pipeline.messages import Alert, AlertState, CameraEvent, CameraState, Caption
from pipeline.outputs.lines import printable
from pipeline.outputs.progress import TotalProgress
from pipeline.outputs.summary import RunSummary
from pipeline.outputs.terminal_parts import (
    CameraInfo,
    Row,
    alert_panel,
    alert_text,
    books_table,
    captions_table,
    closing_lines,
    progress_bars,
    progress_text,
    shown_time,
    word_probability,
)

__all__ = ["CameraInfo", "TerminalView"]

_LINE_INTERVAL_S = 1.0
_PROGRESS_INTERVAL_S = 10.0
_PROGRESS_INTERVAL_SHARE = 1 / 60
"""Progress lines come no more often than in this share of the time so far: few in a long log."""


class TerminalView:
    """The human view of a run on any rich ``Console``; use it as a context manager.

    With ``quiet`` only alerts are printed, a line each. ``clock`` is monotonic, in seconds.
    """

    def __init__(
        self,
        console: Console,
        cameras: Sequence[CameraInfo],
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._quiet = quiet
        self._clock = clock
        self._started_s = clock()
        # Guards the rows only. It is never held while printing: the refreshing thread holds
        # rich's own lock when it asks for the table, and the two would wait for each other.
        self._lock = threading.Lock()
        self._rows = {info.name: Row(info) for info in cameras}
        sizes = {info.name: info.size_bytes for info in cameras if info.size_bytes is not None}
        self._total = TotalProgress(sizes)
        self._several = len(sizes) > 1  # of one recording its own progress is the total
        self._total_at_s = self._started_s
        self._total_task: TaskID | None = None
        self._bars = progress_bars(console)
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal and not quiet:
            self._live = self._make_live()

    def __enter__(self) -> TerminalView:
        self._started_s = self._clock()  # what went before, such as loading, is no reading
        self._total_at_s = self._started_s
        if self._live is not None:
            self._live.start()
        else:
            for row in self._rows.values():
                self._line(Text(f"watching {row.info.name}: {printable(row.info.display_source)}"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def give_up(self) -> bool:
        """Print no more into a pipe; whoever stopped a terminal comes back to it and its table."""
        if self._console.is_terminal:
            return False
        self._console.file = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        return True

    def stop(self) -> None:
        """Leave the last table standing and draw no more."""
        if self._live is not None:
            self._live.stop()

    def caption(self, caption: Caption) -> None:
        """Show a camera's newest caption."""
        probability = word_probability(caption)
        with self._lock:
            row = self._row(caption.stamp.camera)
            row.at, row.text = shown_time(caption.stamp), printable(caption.text)
            row.probability = probability
            if row.state == "waiting":
                row.state = "watching"
            due = self._clock() - row.line_at_s >= _LINE_INTERVAL_S
            if due:
                row.line_at_s = self._clock()
        if self._live is None and due:
            name = caption.stamp.camera
            self._line(Text(f"{row.at}  {name}  {row.text}  ({probability:.2f})"))

    def alert(self, alert: Alert) -> None:
        """Print a new alert above the table, and a line when it is over."""
        with self._lock:
            row = self._row(alert.stamp.camera)
            if alert.state is AlertState.ENDED:
                row.open_alerts.discard(alert.id)
            elif alert.state is not AlertState.ESCALATED:  # that may come when it is over
                row.open_alerts.add(alert.id)
        if alert.state is AlertState.UPDATED:
            return
        if alert.state is AlertState.STARTED and self._live is not None:
            self._console.print(alert_panel(alert))
        else:
            self._console.print(alert_text(alert), soft_wrap=self._live is None)

    def camera_event(self, event: CameraEvent) -> None:
        """Show that a camera came or went."""
        back = event.state in {CameraState.ONLINE, CameraState.SIGHTED}
        with self._lock:
            self._row(event.camera).state = "watching" if back else event.state.value
        text = f"{event.camera} {event.state.value}: {printable(event.reason)}"
        self._line(Text(text, style="green" if back else "yellow"))

    def progress(self, camera: str, position_s: float, duration_s: float | None = None) -> None:
        """Move a recording's bar, and that of all together, to ``position_s`` s of media time.

        ``duration_s``, once known, says how long the bar is.
        """
        lines: list[Text] = []
        with self._lock:
            row = self._row(camera)
            if duration_s is not None and row.info.duration_s is None:
                row.info = replace(row.info, duration_s=duration_s)
            self._total.move(camera, position_s, row.info.duration_s)
            if row.info.duration_s is not None and row.info.duration_s > 0:
                lines += self._move_bar(row, position_s, row.info.duration_s)
            lines += self._move_total()
        for line in lines:
            self._line(line)

    def _move_bar(self, row: Row, position_s: float, duration_s: float) -> list[Text]:
        """Move a recording's bar; the line that says it, where it is time for one."""
        position_s = min(position_s, duration_s)
        if row.task is None and row.state != "ended":
            row.task = self._bars.add_task(row.info.name, total=duration_s)
            row.opened_at_s = row.progress_at_s = self._clock()  # it may have waited for its turn
        if row.task is not None:
            self._bars.update(row.task, completed=position_s)
        ended = position_s >= duration_s
        if ended and row.state in {"waiting", "watching"}:
            row.state = "ended"
        if ended or not self._is_due(row.progress_at_s):
            return []
        row.progress_at_s = self._clock()
        rate = position_s / max(self._clock() - row.opened_at_s, 1e-9)
        left_s = (duration_s - position_s) / rate if rate > 0 else None
        return [progress_text(row.info.name, position_s / duration_s, duration_s, rate, left_s)]

    def _move_total(self) -> list[Text]:
        """Move the bar of all recordings; the line that says it, where it is time for one."""
        total = self._total.now() if self._several else None
        if total is None:
            return []
        who = f"total ({total.ended} of {total.recordings} done)"
        if self._total_task is None:
            self._total_task = self._bars.add_task(who, total=total.media_s)
        self._bars.update(
            self._total_task, description=who, completed=total.read_s, total=total.media_s
        )
        if not self._is_due(self._total_at_s):
            return []
        self._total_at_s = self._clock()
        elapsed_s = self._clock() - self._started_s
        share = total.read_s / total.media_s
        return [
            progress_text(who, share, total.media_s, total.rate(elapsed_s), total.left_s(elapsed_s))
        ]

    def _is_due(self, last_s: float) -> bool:
        """Whether it is time for another progress line; a terminal has bars instead."""
        now_s = self._clock()
        interval_s = (now_s - self._started_s) * _PROGRESS_INTERVAL_SHARE
        return self._live is None and now_s - last_s >= max(_PROGRESS_INTERVAL_S, interval_s)

    def ended(self, camera: str) -> None:
        """Mark a camera as read to its end, whatever length its file promised."""
        with self._lock:
            row = self._row(camera)
            row.state = "ended"
            was_read = self._total.end(camera)
            if row.task is not None:
                # Of many recordings only those that are being read have a bar.
                self._bars.update(
                    row.task, completed=row.info.duration_s, visible=not self._several
                )
            lines = self._move_total()
        if was_read and self._several and self._live is None:
            lines.insert(0, Text(f"{camera}: finished"))
        for line in lines:
            self._line(line)

    def message(self, text: str, style: str = "") -> None:
        """Print a line above the table; control characters are taken out."""
        self._line(Text(printable(text), style=style))

    def summary(self, summary: RunSummary) -> None:
        """Stop the live table and print the accounting and where the files are."""
        self.stop()
        if self._quiet:
            return
        self._console.print()
        self._console.print(books_table(summary))
        for line in closing_lines(summary):
            self._line(line)

    def _line(self, text: Text) -> None:
        if not self._quiet:
            self._console.print(text, soft_wrap=self._live is None)

    def _row(self, camera: str) -> Row:
        row = self._rows.get(camera)
        if row is None:
            row = self._rows[camera] = Row(CameraInfo(camera, ""))
        return row

    def _make_live(self) -> Live:
        return Live(
            console=self._console,
            get_renderable=self.drawn,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=sys.stderr.isatty(),  # logs sent to a file stay in that file
        )

    def drawn(self) -> RenderableType:
        """Draw the table and the bars as they are now; a recording console can print it too."""
        with self._lock:
            bars = sum(task.visible for task in self._bars.tasks)
            room = max(1, (self._console.height - 6 - bars) // 3)
            rows = list(self._rows.values())
            if len(rows) > room:  # first those where something goes on
                rows.sort(key=lambda row: row.idle)
            table = captions_table(rows[:room])
        parts: list[RenderableType] = [table]
        if len(rows) > room:
            parts.append(Text(f"and {len(rows) - room} more cameras", style="dim"))
        if bars:
            parts.append(self._bars)
        return Group(*parts)
