"""The report of a run: one HTML page that needs nothing else, and the same as Markdown and JSON."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.outputs.cues import Cue
from pipeline.outputs.files import atomic_text
from pipeline.outputs.lines import to_json_line
from pipeline.outputs.scenes import Hour, Scene, clock, hours, hours_told, scene_json, scenes
from pipeline.outputs.thumbnails import smaller

__all__ = ["MOST_PICTURES", "REPORT_FILES", "CameraReport", "write_report"]

REPORT_FILES = ("report.html", "report.md", "report.json")
MOST_PICTURES = 150
"""Thumbnails a camera; with more scenes only some of them get one, evenly spaced."""
_TICKS = 4
"""The timeline is labelled at its ends and between."""
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
        "".join(line + "\n" for camera in cameras for line in _markdown(camera)),
        to_json_line({"cameras": [_for_json(camera) for camera in cameras]}),
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
        "alerts": [_alert(cue) for cue in camera.alerts],
    }


def _for_page(camera: CameraReport) -> dict[str, Any]:
    return {
        "camera": camera.camera,
        "recording": None if camera.recording is None else camera.recording.absolute().as_uri(),
        "end_s": camera.end_ms / 1000,
        "ticks": [clock(camera.end_ms * n // _TICKS, camera.started) for n in range(_TICKS + 1)],
        "scenes": [
            {
                **scene_json(scene, camera.started),
                "clock": camera.span(scene, "\u2013"),
                "also": [text for text in scene.shown_ms if text != scene.text][:8],
                "picture": camera.pictures.get(scene.start_ms),
            }
            for scene in camera.scenes
        ],
        "alerts": [
            {
                **_alert(cue),
                "clock": camera.span(cue, "\u2013"),
                "sheet": quote(camera.sheets.get(cue.alert_id, "")),
                "picture": _snapshot(camera.snapshots.get(cue.alert_id)),
            }
            for cue in camera.alerts
        ],
    }


def _snapshot(jpeg: bytes | None) -> str | None:
    return None if jpeg is None else smaller(jpeg)


def _alert(cue: Cue) -> dict[str, Any]:
    return {
        "start_s": cue.start_ms / 1000,
        "end_s": cue.end_ms / 1000,
        "severity": cue.severity,
        "text": cue.text,
    }


def _days(camera: CameraReport) -> list[dict[str, Any]]:
    told = hours_told(camera.scenes, camera.alerts, camera.started)
    return [
        {
            "day": day,
            "hours": [
                {
                    "hour": hour.hour,
                    "scenes": hour.scenes,
                    "mostly": hour.mostly,
                    "alerts": dict(hour.alerts),
                }
                for hour in group
            ],
        }
        for day, group in groupby(told, lambda hour: hour.day)
    ]


def _markdown(camera: CameraReport) -> Iterator[str]:
    yield f"# {_plain(camera.camera)}\n"
    for cue in camera.alerts:
        yield f"- **{clock(cue.start_ms, camera.started)} {_plain(cue.text)}**"
    begun = {(day, hour): found for day, hour, found in hours(camera.scenes, camera.started)}
    told = hours_told(camera.scenes, camera.alerts, camera.started)
    for day, group in groupby(told, lambda hour: hour.day):
        if day:
            yield f"\n## {day}"
        for hour in group:
            yield f"\n### {hour.hour}\n"
            yield _told(hour) + "\n"
            for scene in begun.get((day, hour.hour), ()):
                yield f"- {camera.span(scene)} {_plain(scene.text)}"
    yield ""


def _told(hour: Hour) -> str:
    """One hour in a sentence."""
    counted = [f"{hour.scenes} scene{'' if hour.scenes == 1 else 's'}"]
    if hour.alerts:
        total = sum(hour.alerts.values())
        each = ", ".join(f"{count} {severity}" for severity, count in hour.alerts.items())
        counted.append(f"{total} alert{'' if total == 1 else 's'} ({each})")
    mostly = f"; mostly: {_plain(hour.mostly)}" if hour.mostly else ""
    return ", ".join(counted) + mostly


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    shown = html.escape(text, quote=False)
    return "".join(f"\\{each}" if each in "\\`*_[]#|~" else each for each in shown)
