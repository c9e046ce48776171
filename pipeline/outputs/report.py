"""The report of a run: one HTML page that needs nothing else, and the same as Markdown and JSON."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.outputs.cues import Cue
from pipeline.outputs.files import atomic_text
from pipeline.outputs.lines import to_json_line, utc_text
from pipeline.outputs.scenes import (
    Hour,
    Scene,
    clock,
    day,
    hours,
    hours_told,
    moment,
    scene_json,
    scenes,
)
from pipeline.outputs.thumbnails import smaller

__all__ = ["MOST_PICTURES", "REPORT_FILES", "CameraReport", "write_report"]

REPORT_FILES = ("report.html", "report.md", "report.json")
MOST_PICTURES = 150
"""Thumbnails a camera; with more scenes only some of them get one, evenly spaced."""
_TICKS = 4
"""The timeline is labelled at its ends and between."""
_SEEN = 3
"""An hour is told by what was seen longest in it."""
_DAY_MS = 86_400_000
_PAGE = Path(__file__).with_name("report.html")


@dataclass(frozen=True, slots=True)
class CameraReport:
    """What the report tells of one camera.

    ``started`` is the aware time of media time zero, if known; ``pictures`` are ``data:`` URLs by
    scene start in ms, ``snapshots`` the JPEG pictures of alerts by alert id, and
    ``sheets`` the file names of their contact sheets.
    """

    camera: str
    scenes: Sequence[Scene]
    alerts: Sequence[Cue]
    started: datetime | None = None
    recording: Path | None = None
    pictures: Mapping[int, str] = field(default_factory=dict)
    snapshots: Mapping[str, bytes] = field(default_factory=dict)
    sheets: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_cues(
        cls, camera: str, cues: Sequence[Cue], started: datetime | None, recording: Path | None
    ) -> CameraReport:
        """Sort cues into scenes and alerts."""
        captions = [cue for cue in cues if cue.severity is None]
        alerts = [cue for cue in cues if cue.severity is not None]
        return cls(camera, scenes(captions), alerts, started, recording)

    def picture_times(self) -> list[int]:
        """Return the starts in ms of the scenes that get a thumbnail."""
        step = max(1, -(-len(self.scenes) // MOST_PICTURES))
        return [scene.start_ms for scene in self.scenes[::step]]

    def span(self, entry: Scene | Cue, dash: str = "-") -> str:
        """Write from when to when something lasts."""
        return dash.join(clock(at, self.started) for at in (entry.start_ms, entry.end_ms))

    def entries(self) -> list[Scene | Cue]:
        """Return scenes and alerts in the order of their beginnings, a scene before its alert."""
        found: list[Scene | Cue] = [*self.scenes, *self.alerts]
        return sorted(found, key=lambda entry: entry.start_ms)

    def told_hours(self) -> list[Hour]:
        """Sum up each hour of this camera."""
        return hours_told(self.scenes, self.alerts, self.started)

    def told(self) -> str:
        """Say in a line from when to when something was seen, and how much."""
        if not (self.scenes or self.alerts):
            return "no captions"
        start_ms = self.entries()[0].start_ms
        first, last = (day(at, self.started) for at in (start_ms, self.end_ms))
        begun = f"{first} {clock(start_ms, self.started)}".strip()
        ended = f"{'' if first == last else last} {clock(self.end_ms, self.started)}".strip()
        severities = Counter(cue.severity or "" for cue in self.alerts)
        quiet = "" if self.alerts else ", no alerts"
        return f"{begun} to {ended}: {_counted(len(self.scenes), severities)}{quiet}"

    @property
    def end_ms(self) -> int:
        """Where the last scene or alert ends."""
        ends = [scene.end_ms for scene in self.scenes] + [cue.end_ms for cue in self.alerts]
        return max(ends, default=0)


def write_report(directory: Path, cameras: Sequence[CameraReport]) -> list[Path]:
    """Write the three files.

    Raises:
        OutputError: One cannot be written.

    """
    data = [_for_page(camera) for camera in cameras]
    # Inside a script element only "<" could end it, so it is written as its escape.
    embedded = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    made = (
        _PAGE.read_text(encoding="utf-8").replace("__DATA__", embedded),
        "\n".join(_markdown(cameras)) + "\n",
        to_json_line(
            {"days": _all_days(cameras), "cameras": [_for_json(camera) for camera in cameras]}
        ),
    )
    paths = [directory / name for name in REPORT_FILES]
    for path, text in zip(paths, made, strict=True):
        with atomic_text(path) as file:
            file.write(text)
    return paths


def _for_json(camera: CameraReport) -> dict[str, Any]:
    return {
        "camera": camera.camera,
        "recording": None if camera.recording is None else str(camera.recording),
        "days": _days(camera),
        "scenes": [scene_json(scene, camera.started) for scene in camera.scenes],
        "alerts": [_alert(cue, camera) for cue in camera.alerts],
    }


def _for_page(camera: CameraReport) -> dict[str, Any]:
    return {
        "camera": camera.camera,
        "recording": None if camera.recording is None else camera.recording.absolute().as_uri(),
        "told": camera.told(),
        "end_s": camera.end_ms / 1000,
        "ticks": _ticks(camera),
        "scenes": [
            {
                **scene_json(scene, camera.started),
                **_when(scene, camera),
                "also": [text for text in scene.shown_ms if text != scene.text][:8],
                "picture": camera.pictures.get(scene.start_ms),
            }
            for scene in camera.scenes
        ],
        "alerts": [
            {
                **_alert(cue, camera),
                **_when(cue, camera),
                "sheet": quote(camera.sheets.get(cue.alert_id, "")),
                "picture": _snapshot(camera.snapshots.get(cue.alert_id)),
            }
            for cue in camera.alerts
        ],
    }


def _snapshot(jpeg: bytes | None) -> str | None:
    return None if jpeg is None else smaller(jpeg)


def _when(entry: Scene | Cue, camera: CameraReport) -> dict[str, Any]:
    """The times that the page shows: by the clock, and of a recording where in it."""
    return {
        "day": day(entry.start_ms, camera.started),
        "clock": camera.span(entry, "\u2013"),
        "place": None if camera.recording is None else clock(entry.start_ms),
    }


def _ticks(camera: CameraReport) -> list[str]:
    """Label the timeline; over days with the day in place of the seconds."""
    at_ms = [camera.end_ms * n // _TICKS for n in range(_TICKS + 1)]
    if camera.started is None or camera.end_ms <= _DAY_MS:
        return [clock(at, camera.started) for at in at_ms]
    return [moment(at, camera.started).strftime("%m-%d %H:%M") for at in at_ms]


def _alert(cue: Cue, camera: CameraReport) -> dict[str, Any]:
    at = None if camera.started is None else utc_text(moment(cue.start_ms, camera.started))
    return {
        "start_s": cue.start_ms / 1000,
        "end_s": cue.end_ms / 1000,
        "time": at,
        "alert_id": cue.alert_id,
        "rule": cue.rule,
        "severity": cue.severity,
        "text": cue.text,
        "sheet": camera.sheets.get(cue.alert_id),
    }


def _days(camera: CameraReport) -> list[dict[str, Any]]:
    return [
        {"day": name, "hours": [{"hour": hour.hour, **_hour(hour)} for hour in group]}
        for name, group in groupby(camera.told_hours(), lambda hour: hour.day)
    ]


def _hour(hour: Hour) -> dict[str, Any]:
    seen = [{"text": text, "shown_s": shown_ms / 1000} for text, shown_ms in hour.seen(_SEEN)]
    return {
        "scenes": hour.scenes,
        "mostly": hour.mostly,
        "seen": seen,
        "alerts": dict(hour.alerts),
    }


def _together(cameras: Sequence[CameraReport]) -> list[tuple[Hour, CameraReport]]:
    """The hours of all cameras, in order."""
    each = [(hour, camera) for camera in cameras for hour in camera.told_hours()]
    return sorted(each, key=lambda pair: (pair[0].day, pair[0].hour))


def _all_days(cameras: Sequence[CameraReport]) -> list[dict[str, Any]]:
    """The whole by day and hour, and in each hour by camera."""
    days: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for hour, camera in _together(cameras):
        told = {"camera": camera.camera, **_hour(hour)}
        days.setdefault(hour.day, {}).setdefault(hour.hour, []).append(told)
    return [
        {"day": name, "hours": [{"hour": hour, "cameras": told} for hour, told in of_day.items()]}
        for name, of_day in days.items()
    ]


def _markdown(cameras: Sequence[CameraReport]) -> Iterator[str]:
    yield "# Watchword report\n"
    for camera in cameras:
        yield f"- {_plain(camera.camera)}: {camera.told()}"
    if len(cameras) > 1:
        yield "\n## Hour by hour"
        for name, group in groupby(_together(cameras), lambda pair: pair[0].day):
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
    seen = [f"{_plain(text)} ({_lasting(shown_ms)})" for text, shown_ms in hour.seen(_SEEN)]
    return "; ".join([_counted(hour.scenes, hour.alerts), *seen])


def _lasting(shown_ms: int) -> str:
    """Write how long something stood: in minutes from two on."""
    seconds = round(shown_ms / 1000)
    return f"{seconds} s" if seconds < 120 else f"{round(seconds / 60)} min"


def _counted(scenes_seen: int, alerts: Mapping[str, int]) -> str:
    """Say how many scenes, and how many alerts of which severity."""
    counted = [_number(scenes_seen, "scene")] if scenes_seen else []
    if alerts:
        each = ", ".join(f"{count} {severity}" for severity, count in alerts.items())
        counted.append(f"{_number(sum(alerts.values()), 'alert')} ({each})")
    return ", ".join(counted)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    shown = html.escape(text, quote=False)
    return "".join(f"\\{each}" if each in "\\`*_[]#|~" else each for each in shown)
