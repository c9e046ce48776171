"""Small pictures out of a recording, for the report."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.pictures import Polygons, black_out

__all__ = ["decoded", "frames", "smaller", "thumbnails"]

_WIDTH_PIXELS = 192
_SNAPSHOT_WIDTH_PIXELS = 320
_QUALITY = 60


def thumbnails(file: Path, at_ms: Iterable[int], masks: Polygons = ()) -> dict[int, str]:
    """Make a JPEG ``data:`` URL of the frame at each time; a time without a frame gives none."""
    found = ((at, _encoded(frame, _WIDTH_PIXELS)) for at, frame in frames(file, at_ms, masks))
    return {at: url for at, url in found if url is not None}


def frames(
    file: Path, at_ms: Iterable[int], masks: Polygons = ()
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield time and frame, (H, W, 3) uint8 BGR; a time without a frame is passed over.

    Args:
        file: The recording.
        at_ms: Media times in ms.
        masks: Painted black, as in what the model sees.

    """
    capture = cv2.VideoCapture(str(file))
    try:
        for at in at_ms:
            capture.set(cv2.CAP_PROP_POS_MSEC, float(at))
            read, frame = capture.read()
            if read:
                picture = np.ascontiguousarray(frame, dtype=np.uint8)
                black_out(picture, masks)
                yield at, picture
    finally:
        capture.release()


def smaller(jpeg: bytes) -> str | None:
    """Make a JPEG ``data:`` URL of an alert's snapshot; None for what is no picture."""
    picture = decoded(jpeg)
    return None if picture is None else _encoded(picture, _SNAPSHOT_WIDTH_PIXELS)


def decoded(jpeg: bytes) -> NDArray[np.uint8] | None:
    """Decode a JPEG to (H, W, 3) uint8 BGR; None for what is no picture."""
    if not jpeg:
        return None
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return None if picture is None else np.asarray(picture, np.uint8)


def _encoded(picture: NDArray[np.uint8], width_pixels: int) -> str | None:
    height, width = picture.shape[:2]
    size = (width_pixels, max(1, round(height * width_pixels / width)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    good, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode() if good else None
