"""The report of a run as Markdown: the whole hour by hour, then each camera by day and hour."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from itertools import groupby
from urllib.parse import quote

from pipeline.outputs.camera_report import CameraReport, counted, together
from pipeline.outputs.cues import Cue
from pipeline.outputs.scenes import MOST_SEEN, Hour, Scene, hours

__all__ = ["markdown"]


def markdown(cameras: Sequence[CameraReport]) -> Iterator[str]:
    """Yield the lines; a line may hold line breaks of its own."""
    yield "# Watchword report\n"
    for camera in cameras:
        yield f"- {_plain(camera.camera)}: {camera.told()}"
    if len(cameras) > 1:
        yield "\n## Hour by hour"
        for name, group in groupby(together(cameras), lambda pair: pair[0].day):
            yield f"\n### {name or 'without a clock'}\n"
            for hour, camera in group:
                yield f"- {hour.hour} {_plain(camera.camera)}: {_told(hour)}"
    for camera in cameras:
        yield from _camera_markdown(camera)


def _camera_markdown(camera: CameraReport) -> Iterator[str]:
    yield f"\n## {_plain(camera.camera)}\n"
    yield camera.told()
    begun = {(name, hour): found for name, hour, found in hours(camera.entries(), camera.started)}
    for name, group in groupby(camera.told_hours(), lambda hour: hour.day):
        if name:
            yield f"\n### {name}"
        for hour in group:
            yield f"\n#### {hour.hour}\n\n{_told(hour)}\n"
            yield from (_entry(entry, camera) for entry in begun.get((name, hour.hour), ()))


def _entry(entry: Scene | Cue, camera: CameraReport) -> str:
    said = f"{camera.span(entry)} {_plain(entry.text)}"
    if isinstance(entry, Scene):
        return f"- {said}"
    sheet = camera.sheets.get(entry.alert_id)
    return f"- **{said}**" + (f" ([contact sheet]({quote(sheet)}))" if sheet else "")


def _told(hour: Hour) -> str:
    """One hour in a sentence."""
    seen = [f"{_plain(text)} ({_lasting(shown_ms)})" for text, shown_ms in hour.seen(MOST_SEEN)]
    return "; ".join([counted(hour.scenes, hour.alerts), *seen])


def _lasting(shown_ms: int) -> str:
    """Write how long something stood: in minutes from two on."""
    seconds = round(shown_ms / 1000)
    return f"{seconds} s" if seconds < 120 else f"{round(seconds / 60)} min"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    shown = html.escape(text, quote=False)
    return "".join(f"\\{each}" if each in "\\`*_[]#|~" else each for each in shown)
