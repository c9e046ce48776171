"""Small pictures out of a recording, for the report."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from pipeline.pictures import Polygons, black_out

__all__ = ["thumbnails"]

_WIDTH_PIXELS = 192
_QUALITY = 60


def thumbnails(file: Path, at_ms: Iterable[int], masks: Polygons = ()) -> dict[int, str]:
    """Make a JPEG ``data:`` URL of the frame at each time; a time without a frame gives none.

    Args:
        file: The recording.
        at_ms: Media times in ms.
        masks: Painted black, as in what the model sees.

    """
    capture = cv2.VideoCapture(str(file))
    try:
        found = {at: _data_url(capture, at, masks) for at in at_ms}
    finally:
        capture.release()
    return {at: url for at, url in found.items() if url is not None}


def _data_url(capture: cv2.VideoCapture, at_ms: int, masks: Polygons) -> str | None:
    capture.set(cv2.CAP_PROP_POS_MSEC, float(at_ms))
    read, frame = capture.read()
    if not read:
        return None
    picture = np.ascontiguousarray(frame, dtype=np.uint8)
    if masks:
        black_out(picture, masks)
    height, width = picture.shape[:2]
    size = (_WIDTH_PIXELS, max(1, round(height * _WIDTH_PIXELS / width)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    good, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode() if good else None
