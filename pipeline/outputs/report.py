"""The report of a run: one HTML page that needs nothing else, and the same as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.outputs.camera_report import CameraReport, together
from pipeline.outputs.cues import Cue
from pipeline.outputs.files import atomic_text
from pipeline.outputs.lines import to_json_line, utc_text
from pipeline.outputs.report_text import markdown
from pipeline.outputs.scenes import MOST_SEEN, Hour, Scene, clock, day, moment, scene_json
from pipeline.outputs.thumbnails import smaller

__all__ = ["REPORT_FILES", "write_report"]

REPORT_FILES = ("report.html", "report.md", "report.json")
_TICKS = 4
"""The timeline is labelled at its ends and between."""
_DAY_MS = 86_400_000
_PAGE = Path(__file__).with_name("report.html")


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
        "\n".join(markdown(cameras)) + "\n",
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
    seen = [{"text": text, "shown_s": shown_ms / 1000} for text, shown_ms in hour.seen(MOST_SEEN)]
    return {
        "scenes": hour.scenes,
        "mostly": hour.mostly,
        "seen": seen,
        "alerts": dict(hour.alerts),
    }


def _all_days(cameras: Sequence[CameraReport]) -> list[dict[str, Any]]:
    """The whole by day and hour, and in each hour by camera."""
    days: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for hour, camera in together(cameras):
        told = {"camera": camera.camera, **_hour(hour)}
        days.setdefault(hour.day, {}).setdefault(hour.hour, []).append(told)
    return [
        {"day": name, "hours": [{"hour": hour, "cameras": told} for hour, told in of_day.items()]}
        for name, of_day in days.items()
    ]
