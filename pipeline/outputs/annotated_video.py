"""A recording with what was said of it drawn in: captions, alert banners, outlined regions."""

from __future__ import annotations

import logging
import textwrap
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.outputs.cues import Cue
from pipeline.outputs.files import OutputError, atomic_path
from pipeline.pictures import Polygons, black_out

__all__ = ["Box", "boxes_of", "write_video"]

log = logging.getLogger(__name__)

Box = tuple[float, float, float, float]
"""x, y, width and height, fractions of the picture."""

_USUAL_FPS = 25.0
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK = (255, 255, 255)  # BGR, as the others
_CAPTION_BACK = (0, 0, 0)
_SEVERITY_BACK = {"critical": (40, 40, 200), "warning": (0, 110, 200), "info": (160, 110, 30)}
_LINES_A_PICTURE = 18


def boxes_of(alerts: Iterable[Mapping[str, Any]]) -> dict[str, Box]:
    """Find the place of each alert in its journal records: the first that names one."""
    found: dict[str, Box] = {}
    for record in alerts:
        alert, region = record["alert"], record["alert"]["region"]
        if region is not None:
            box = (region["x"], region["y"], region["width"], region["height"])
            found.setdefault(alert["alert_id"], box)
    return found


def write_video(
    path: Path, recording: Path, masks: Polygons, cues: Sequence[Cue], boxes: Mapping[str, Box]
) -> bool:
    """Write an MP4 (MPEG-4, no sound) of a recording, at a constant rate that keeps its times.

    Returns:
        False where the recording has no picture that can be read; then there is no file.

    Raises:
        OutputError: It cannot be written, or not as a whole.

    """
    capture = cv2.VideoCapture(str(recording))
    try:
        read, first = capture.read()
        if not read:
            log.warning("no video is made of %s: it cannot be read again", recording)
            return False
        rate = capture.get(cv2.CAP_PROP_FPS)
        fps = rate if 1.0 <= rate <= 240.0 else _USUAL_FPS
        with atomic_path(path) as temporary:
            frames = _annotated(capture, np.asarray(first, np.uint8), masks, _Overlay(cues, boxes))
            _write_frames(temporary, path, frames, fps)
    finally:
        capture.release()
    return True


def _annotated(
    capture: cv2.VideoCapture, frame: NDArray[np.uint8], masks: Polygons, overlay: _Overlay
) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Yield media time in s and drawn frame, the one given first."""
    read, picture = True, frame
    while read:
        at_ms = capture.get(cv2.CAP_PROP_POS_MSEC)
        black_out(picture, masks)
        overlay.draw(picture, at_ms)
        yield at_ms / 1000, picture
        read, following = capture.read()
        if read:
            picture = np.asarray(following, np.uint8)


def _write_frames(
    temporary: Path, path: Path, frames: Iterable[tuple[float, NDArray[np.uint8]]], fps: float
) -> None:
    writer, written = cv2.VideoWriter(), 0
    before: NDArray[np.uint8] | None = None
    try:
        for at_s, frame in frames:
            if before is None:
                before, size = frame, (frame.shape[1], frame.shape[0])
                writer.open(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
            # Where the rate varies a frame is left out, or the one before is shown for longer.
            place = max(0, round(at_s * fps))
            for number in range(written, place + 1):
                writer.write(frame if number == place else before)
            written, before = max(written, place + 1), frame
    finally:
        writer.release()
    if not _is_whole(temporary, written):
        raise OutputError(f"cannot write {path} whole; is the disk full?")


def _is_whole(path: Path, frames: int) -> bool:
    """Whether the file holds so many frames: the writer tells of no error."""
    capture = cv2.VideoCapture(str(path))
    try:
        return capture.isOpened() and round(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == frames
    finally:
        capture.release()


class _Overlay:
    """What is drawn at which time; the times asked for only grow."""

    def __init__(self, cues: Sequence[Cue], boxes: Mapping[str, Box]) -> None:
        self._waiting = deque(sorted(cues, key=lambda cue: cue.start_ms))
        self._shown: list[Cue] = []
        self._boxes = boxes

    def draw(self, picture: NDArray[np.uint8], at_ms: float) -> None:
        """Draw into (H, W, 3) uint8 BGR what is on the screen at a media time."""
        while self._waiting and self._waiting[0].start_ms <= at_ms:
            self._shown.append(self._waiting.popleft())
        self._shown = [cue for cue in self._shown if at_ms < cue.end_ms]
        top, bottom = 0, picture.shape[0]
        for cue in self._shown:
            if cue.severity is None:
                bottom -= _strip(picture, cue.text, bottom, _CAPTION_BACK, upwards=True)
                continue
            back = _SEVERITY_BACK.get(cue.severity, _SEVERITY_BACK["critical"])
            if cue.alert_id in self._boxes:
                _outline(picture, self._boxes[cue.alert_id], back)
            top += _strip(picture, cue.text, top, back)


def _strip(
    picture: NDArray[np.uint8],
    text: str,
    edge: int,
    back: tuple[int, int, int],
    *,
    upwards: bool = False,
) -> int:
    """Write a text across the picture from ``edge`` on; the height in pixels."""
    line: int = max(12, picture.shape[0] // _LINES_A_PICTURE)
    scale = line / 36
    letter = max(1.0, cv2.getTextSize("abcdefghij", _FONT, scale, 1)[0][0] / 10)
    lines = textwrap.wrap(text, max(8, int((picture.shape[1] - line) / letter))) or [""]
    height = line * len(lines) + line // 3
    top = max(0, edge - height if upwards else edge)
    area = picture[top : top + height]
    area[:] = (area * 0.35 + np.array(back) * 0.65).astype(np.uint8)
    for number, part in enumerate(lines, start=1):
        shown = part.encode("ascii", "replace").decode()  # all that this font has
        place = (line // 2, top + line * number)
        cv2.putText(picture, shown, place, _FONT, scale, _INK, 1, cv2.LINE_AA)
    return height


def _outline(picture: NDArray[np.uint8], box: Box, colour: tuple[int, int, int]) -> None:
    height, width = picture.shape[:2]
    x, y, across, down = box
    corner = (int(x * width), int(y * height))
    opposite = (int(min(1.0, x + across) * width) - 1, int(min(1.0, y + down) * height) - 1)
    cv2.rectangle(picture, corner, opposite, colour, max(2, height // 240))
