"""What the terminal view draws: the table, the bars, an alert, the books of a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pipeline.messages import Alert, AlertState, Caption, FrameStamp
from pipeline.outputs.lines import blank_controls, printable
from pipeline.outputs.summary import CameraSummary, RunSummary

__all__ = [
    "CameraInfo",
    "Row",
    "alert_panel",
    "alert_text",
    "books_table",
    "captions_table",
    "clock_text",
    "closing_lines",
    "progress_bars",
    "progress_text",
    "shown_time",
    "word_probability",
]

_SEVERITY_STYLE = {
    "critical": "bold white on red",
    "warning": "bold yellow",
    "info": "bold cyan",
}
_MOST_FILES = 24
_DOUBLE = frozenset({".events", ".coco"})
_STATE_STYLE = {"ALERT": "bold red", "offline": "red", "blind": "yellow", "ended": "dim"}


@dataclass(frozen=True, slots=True)
class CameraInfo:
    """A camera as the view shows it; ``display_source`` holds no secret.

    ``size_bytes`` is a recording's, and None for a live camera.
    """

    name: str
    display_source: str
    duration_s: float | None = None
    size_bytes: int | None = None


@dataclass
class Row:
    """What the table shows of one camera, and when its last plain lines were printed."""

    info: CameraInfo
    at: str = ""
    text: str = ""
    probability: float | None = None
    state: str = "waiting"
    open_alerts: set[str] = field(default_factory=set)
    task: TaskID | None = None
    line_at_s: float = -math.inf
    opened_at_s: float = 0.0
    progress_at_s: float = 0.0

    @property
    def idle(self) -> bool:
        """Whether nothing goes on here."""
        return self.state in {"waiting", "ended"} and not self.open_alerts


def captions_table(rows: Iterable[Row]) -> Table:
    """Make the live table, a row for each camera."""
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("camera", style="bold", max_width=16, no_wrap=True, overflow="ellipsis")
    table.add_column("time", no_wrap=True, min_width=8)
    table.add_column("caption", ratio=1)
    table.add_column("prob.", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True, min_width=8)
    for row in rows:
        state = "ALERT" if row.open_alerts else row.state
        probability = "" if row.probability is None else f"{row.probability:.2f}"
        text = Text(row.text or "…")
        shown = Text(state, style=_STATE_STYLE.get(state, "green"))
        table.add_row(Text(row.info.name), Text(row.at), text, probability, shown)
    return table


class _RateColumn(TextColumn):
    """How many seconds of media are read in a second."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else f"{rate:.1f}x", style="cyan")


def progress_bars(console: Console) -> Progress:
    """Make the bars: name, share, rate in seconds of media a second, time left."""
    return Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f} %"),
        _RateColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        expand=True,
    )


def _highlighted(alert: Alert) -> Text:
    """Underline what matched, in the severity's colour."""
    text = Text(alert.caption)
    for found in alert.keywords:
        text.stylize(f"{_style(alert)} underline", *found.span)
    text.plain = blank_controls(alert.caption)  # as long as before, so the spans stay right
    return text


def alert_panel(alert: Alert) -> Panel:
    """Frame a new alert so that nobody overlooks it."""
    title = Text(f" ALERT {printable(alert.rule)} ", style=_style(alert))
    first = Text(f"{alert.stamp.camera}  {shown_time(alert.stamp)}  ", style="bold")
    second = Text(
        f"{alert.severity}  matched {_matched(alert)}  probability {alert.probability:.2f}"
    )
    border = _style(alert).removesuffix(" on red").replace("white", "red")
    return Panel(
        Group(first + _highlighted(alert), second),
        title=title,
        title_align="left",
        border_style=border,
        box=box.HEAVY,
    )


def alert_text(alert: Alert) -> Text:
    """Say an alert, or its end, on one line."""
    over = alert.state is AlertState.ENDED
    new = f"ALERT {alert.severity}"
    head = {AlertState.ENDED: "alert over", AlertState.ESCALATED: f"{new} not answered:"}.get(
        alert.state, new
    )
    where = f" {printable(alert.rule)}  {alert.stamp.camera}  {shown_time(alert.stamp)}  "
    seen = "once" if alert.count == 1 else f"{alert.count} times"
    unspoken = "" if any(found.matched for found in alert.keywords) else f"{_matched(alert)} "
    sure = f"  ({unspoken}{alert.probability:.2f})"
    tail = f"  (seen {seen})" if over else sure
    style = "dim" if over else _style(alert)
    return Text(head, style=style) + Text(where) + _highlighted(alert) + Text(tail)


def _matched(alert: Alert) -> str:
    """Words of the caption; what the detector saw without a word is named by its keyword."""
    seen = (found.matched or found.keyword for found in alert.keywords)
    return ", ".join(dict.fromkeys(map(printable, seen)))


def _style(alert: Alert) -> str:
    return _SEVERITY_STYLE.get(alert.severity, "bold magenta")


def books_table(summary: RunSummary) -> Table:
    """Lay out where the frames went, a row for each camera."""
    # So tight that all heads fit into 80 columns.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("frames of", style="bold", max_width=16, no_wrap=True, overflow="ellipsis")
    for term in ("grabbed", "unsampled", "skipped", "dropped", "failed", "encoded", "captions"):
        table.add_column(term, justify="right", no_wrap=True)
    for camera in summary.cameras:
        table.add_row(Text(camera.camera), *_numbers(camera))
    if len(summary.cameras) > 1:
        table.add_section()
        table.add_row("total", *_numbers(summary.total), style="bold")
    return table


def _numbers(books: CameraSummary) -> list[str]:
    dropped, failed = sum(books.dropped.values()), sum(books.failed.values())
    counts = (books.grabbed, books.unsampled, books.skipped, dropped, failed, books.encoded)
    return [str(count) for count in (*counts, books.captioned)]


def closing_lines(summary: RunSummary) -> Iterable[Text]:
    """Say why frames and windows were lost, the rate, the alerts, the files."""
    for books in summary.cameras:
        reasons = {
            "frames dropped": books.dropped,
            "frames failed": books.failed,
            "windows dropped": books.windows_dropped,
            "windows failed": books.windows_failed,
        }
        for term, counts in reasons.items():
            listed = ", ".join(f"{reason} {count}" for reason, count in counts.items() if count)
            if listed:
                yield Text(f"{books.camera}: {term}: {listed}", style="yellow")
    rate = f"{summary.captions_per_second:.1f} captions/s"
    yield Text(f"{summary.total.captioned} captions in {summary.wall_s:.1f} s ({rate})")
    rules = ", ".join(f"{printable(rule)} {count}" for rule, count in summary.alerts.items())
    total = sum(summary.alerts.values())
    if total:
        yield Text(f"{total} {'alert' if total == 1 else 'alerts'}: {rules}", style="bold")
    else:
        yield Text("no alerts")
    for line in _files_told(summary.files):
        yield Text(f"  {printable(line)}", style="cyan")


def _files_told(files: Sequence[Path]) -> Iterable[str]:
    """Name each file; of a folder of recordings only how many there are of each kind."""
    if len(files) <= _MOST_FILES:
        return map(str, files)
    kinds = Counter(_kind(path) for path in files)
    return (str(kind) if count == 1 else f"{count} {kind}" for kind, count in kinds.items())


def _kind(path: Path) -> Path:
    """``out/*.vtt`` for ``out/gate.vtt``; a report's page stays what it is."""
    if path.stem == "report":
        return path
    ends = path.suffixes[-2:]
    whole = ends[-1:] if len(ends) == 2 and ends[0] not in _DOUBLE else ends
    return path.with_name("*" + "".join(whole))


def progress_text(
    who: str, share: float, media_s: float, rate: float, left_s: float | None
) -> Text:
    """Say on one line how far something is: ``gate: 50% of 10:00, 4.0x, 01:15 left``."""
    left = "?" if left_s is None else clock_text(left_s)
    return Text(f"{who}: {share:.0%} of {clock_text(media_s)}, {rate:.1f}x, {left} left")


def shown_time(stamp: FrameStamp) -> str:
    """Write the media time of a recording, the wall clock here for a live camera."""
    if stamp.position_s is not None:
        return clock_text(stamp.position_s)
    return stamp.captured_at.astimezone().strftime("%H:%M:%S")


def word_probability(caption: Caption) -> float:
    """Mean (geometric) probability of a caption's words and its end, 0..1.

    The whole sentence's, which the files hold, is near nought for any sentence of some length.
    """
    tokens = (len(caption.words) or len(caption.text.split())) + 1
    return math.exp(min(0.0, caption.log_probability) / tokens)


def clock_text(seconds: float) -> str:
    """Write seconds as mm:ss, from an hour on as h:mm:ss."""
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
