"""Small pictures out of a recording, for the report."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.pictures import Polygons, black_out

__all__ = ["smaller", "thumbnails"]

_WIDTH_PIXELS = 192
_SNAPSHOT_WIDTH_PIXELS = 320
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


def smaller(jpeg: bytes) -> str | None:
    """Make a JPEG ``data:`` URL of an alert's snapshot; None for what is no picture."""
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return (
        None if picture is None else _encoded(np.asarray(picture, np.uint8), _SNAPSHOT_WIDTH_PIXELS)
    )


def _data_url(capture: cv2.VideoCapture, at_ms: int, masks: Polygons) -> str | None:
    capture.set(cv2.CAP_PROP_POS_MSEC, float(at_ms))
    read, frame = capture.read()
    if not read:
        return None
    picture = np.ascontiguousarray(frame, dtype=np.uint8)
    if masks:
        black_out(picture, masks)
    return _encoded(picture, _WIDTH_PIXELS)


def _encoded(picture: NDArray[np.uint8], width_pixels: int) -> str | None:
    height, width = picture.shape[:2]
    size = (width_pixels, max(1, round(height * width_pixels / width)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    good, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode() if good else None
