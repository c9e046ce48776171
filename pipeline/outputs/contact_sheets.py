"""A contact sheet of an alert: its snapshot and the pictures around it, on one page."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.outputs.camera_report import CameraReport
from pipeline.outputs.cues import Cue
from pipeline.outputs.files import OutputError, atomic_path
from pipeline.outputs.scenes import clock, day
from pipeline.outputs.thumbnails import decoded, frames
from pipeline.pictures import Polygons

__all__ = ["MOST_SHEETS", "sheet_names", "write_sheets"]

MOST_SHEETS = 200
"""Sheets a camera: a rule that fires all day must not keep the run from its end."""
_Cell = tuple[str, NDArray[np.uint8]]
"""A label and a picture, (H, W, 3) uint8 BGR."""

_CELLS_ACROSS = 3
_CELL_WIDTH, _GAP, _LINE, _LABEL = 320, 8, 24, 20  # pixels
_LEAD_MS, _MOMENTS = 2000, 8  # from so long before an alert to its end, so many pictures
_HEADING_SCALE, _LABEL_SCALE = 0.55, 0.45
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BACKGROUND, _INK = (32, 32, 32), (235, 235, 235)


def sheet_names(report: CameraReport, recording: Path | None) -> dict[str, str]:
    """Name the sheets of a camera's alerts, by alert id, of those that there are pictures for.

    Args:
        report: What is told of the camera.
        recording: Where pictures may be taken from; None leaves only the snapshots.

    """
    shown = (cue for cue in report.alerts if recording or cue.alert_id in report.snapshots)
    first = itertools.islice(shown, MOST_SHEETS)
    return {cue.alert_id: _name(report.camera, cue) for cue in first}


def write_sheets(
    directory: Path, report: CameraReport, recording: Path | None, masks: Polygons
) -> list[Path]:
    """Write the sheets that ``report`` names, as PNG; one without a picture is left out.

    Raises:
        OutputError: One cannot be written.

    """
    alerts = {cue.alert_id: cue for cue in report.alerts}
    written: list[Path] = []
    for alert_id, name in report.sheets.items():
        cue = alerts[alert_id]
        cells = _cells(cue, report, recording, masks)
        if cells:
            when = f"{day(cue.start_ms, report.started)} {report.span(cue)}".strip()
            heading = f"{report.camera}  {when}  {cue.text}"
            _write_png(directory / name, _drawn(heading, cells))
            written.append(directory / name)
    return written


def _name(camera: str, cue: Cue) -> str:
    """Name a sheet by its time, so that they sort, and its id, so that they differ."""
    minutes, seconds = divmod(cue.start_ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{camera}.alert-{hours:02d}h{minutes:02d}m{seconds:02d}s-{cue.alert_id[:8]}.png"


def _cells(cue: Cue, report: CameraReport, recording: Path | None, masks: Polygons) -> list[_Cell]:
    snapshot = decoded(report.snapshots.get(cue.alert_id, b""))
    cells: list[_Cell] = [] if snapshot is None else [("the alert", snapshot)]
    if recording is not None:
        first = max(0, cue.start_ms - _LEAD_MS)
        times = [int(at) for at in np.linspace(first, cue.end_ms, _MOMENTS)]
        found = frames(recording, times, masks)
        cells.extend((_tenths(at, report.started), picture) for at, picture in found)
    return cells


def _tenths(at_ms: int, started: datetime | None) -> str:
    """Write a time to the tenth of a second: the pictures of a short alert lie close together."""
    past_ms = 0 if started is None else started.microsecond // 1000
    return f"{clock(at_ms, started)}.{(at_ms + past_ms) % 1000 // 100}"


def _write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    done, png = cv2.imencode(".png", picture)
    if not done:
        raise OutputError(f"cannot write {path}: the picture cannot be encoded")
    with atomic_path(path) as temporary:
        temporary.write_bytes(png.tobytes())


def _drawn(heading: str, cells: Sequence[_Cell]) -> NDArray[np.uint8]:
    pictures = [_fitted(picture) for _, picture in cells]
    across = _CELLS_ACROSS if len(cells) > 1 else 1
    width = _GAP + _CELLS_ACROSS * (_CELL_WIDTH + _GAP)
    lines = textwrap.wrap(heading, _letters_a_line(heading, width - 2 * _GAP))
    top = _GAP + _LINE * len(lines)
    row_height = _LABEL + max(picture.shape[0] for picture in pictures) + _GAP
    height = top + -(-len(cells) // across) * row_height + _GAP
    sheet = np.full((height, width, 3), _BACKGROUND, np.uint8)
    for number, line in enumerate(lines):
        _write(sheet, line, _GAP, _LINE * (number + 1) - 4, _HEADING_SCALE)
    for number, ((label, _), picture) in enumerate(zip(cells, pictures, strict=True)):
        left = _GAP + number % across * (_CELL_WIDTH + _GAP)
        row_top = top + number // across * row_height
        _write(sheet, label, left, row_top + _LABEL - 5, _LABEL_SCALE)
        bottom = row_top + _LABEL + picture.shape[0]
        sheet[row_top + _LABEL : bottom, left : left + _CELL_WIDTH] = picture
    return sheet


def _letters_a_line(heading: str, width_pixels: int) -> int:
    """How many letters of a heading fit into a line, as wide as this one's are."""
    (pixels, _), _ = cv2.getTextSize(heading, _FONT, _HEADING_SCALE, 1)
    mean = pixels / max(1, len(heading))
    return max(20, int(0.9 * width_pixels / max(1.0, mean)))


def _fitted(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height = max(1, round(picture.shape[0] * _CELL_WIDTH / picture.shape[1]))
    small = cv2.resize(picture, (_CELL_WIDTH, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def _write(sheet: NDArray[Any], text: str, x: int, y: int, scale: float) -> None:
    shown = text.encode("ascii", "replace").decode()  # all that this font has
    cv2.putText(sheet, shown, (x, y), _FONT, scale, _INK, 1, cv2.LINE_AA)
