"""A frame made small: the encoder's square, the preview, and how much changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.sight import PictureMeasures

__all__ = [
    "Picture",
    "Polygons",
    "black_out",
    "change_between",
    "halve_towards",
    "measure",
    "preview_size",
    "shrink_to",
    "thumbnail",
    "unmasked",
]

Polygons = Sequence[Sequence[tuple[float, float]]]
"""Polygons; corners are fractions of the picture's width and height, 0..1."""


class Picture(NamedTuple):
    """A frame (H, W, 3) uint8 BGR, halved as often as it can be, and the size of its preview."""

    image: NDArray[np.uint8]
    width: int
    height: int


_THUMBNAIL_PIXELS = 56
_BLUR_PIXELS = 9


def preview_size(width: int, height: int, longest: int) -> tuple[int, int]:
    """Width and height, pixels, of the preview: the picture's aspect, never enlarged."""
    scale = min(1.0, longest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def shrink_to(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resize (H, W, 3) uint8 to ``width`` x ``height``.

    Halves by area first while there is more than twice too much (OpenCV's fast path: a quarter
    of the cost of area resizing at once, at 1080p, with its freedom from aliasing), then linear.
    """
    image = halve_towards(image, width, height)
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def halve_towards(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Halve (H, W, 3) uint8 while both sides stay at least ``width`` and ``height``.

    What several smaller pictures are made from, this is done once for all of them.
    """
    while image.shape[1] >= 2 * width and image.shape[0] >= 2 * height:
        half = (image.shape[1] // 2, image.shape[0] // 2)
        even = image[: half[1] * 2, : half[0] * 2]
        image = np.asarray(cv2.resize(even, half, interpolation=cv2.INTER_AREA), np.uint8)
    return image


def thumbnail(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a smaller picture of the encoder's square, (S, S) grey, to compare with the next."""
    size = (_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS)
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def change_between(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    """Mean absolute grey difference of two thumbnails, 0..1."""
    return float(cv2.absdiff(before, after).mean()) / 255.0


def black_out(image: NDArray[np.uint8], polygons: Polygons) -> None:
    """Paint polygons of (H, W, 3) or (H, W) uint8 black, in place, edges included."""
    scale = np.array([image.shape[1] - 1, image.shape[0] - 1])
    corners = [np.rint(np.asarray(polygon) * scale).astype(np.int32) for polygon in polygons]
    for polygon in corners:  # one by one: where two overlap in one call, the overlap stays clear
        cv2.fillPoly(image, [polygon], 0)


def unmasked(pixels: int, polygons: Polygons) -> NDArray[np.bool_] | None:
    """Which pixels of a square no mask reaches, (S, S), or None without masks."""
    if not polygons:
        return None
    keep = np.full((pixels, pixels), 255, np.uint8)
    black_out(keep, polygons)
    near = np.ones((2 * _BLUR_PIXELS + 1,) * 2, np.uint8)  # a mask's edge is no detail of the scene
    return np.asarray(cv2.erode(keep, near) > 0)


def measure(
    grey: NDArray[np.uint8],
    before: NDArray[np.uint8] | None = None,
    keep: NDArray[np.bool_] | None = None,
) -> PictureMeasures:
    """Put (S, S) uint8 grey into numbers, against the picture before it.

    ``keep`` (S, S) leaves out masked pixels; at least some must be kept.
    """
    counts = np.bincount(grey.ravel() if keep is None else grey[keep], minlength=256)
    levels, total = np.arange(256), int(counts.sum())
    brightest = float(np.searchsorted(np.cumsum(counts), 0.98 * total))
    mean = float(counts @ levels) / total
    spread = float(np.sqrt(counts @ (levels - mean) ** 2 / total))
    picture = grey.astype(np.float32)
    detail = float(_kept(cv2.Laplacian(picture, cv2.CV_32F), keep).std()) / max(spread, 1e-3)
    blur = max(_blur_along(picture, keep, 0), _blur_along(picture, keep, 1))
    change = None if before is None else float(_kept(cv2.absdiff(grey, before), keep).mean())
    return PictureMeasures(brightest, spread, blur, detail, change)


def _kept(values: NDArray[Any], keep: NDArray[np.bool_] | None) -> NDArray[Any]:
    return values if keep is None else values[keep]


def _blur_along(picture: NDArray[np.float32], keep: NDArray[np.bool_] | None, axis: int) -> float:
    """Crete's measure along one axis: the share of the steps that outlives a further blur."""
    kernel = (1, _BLUR_PIXELS) if axis == 0 else (_BLUR_PIXELS, 1)
    inside = None if keep is None else (keep[1:] if axis == 0 else keep[:, 1:])
    steps = np.abs(_kept(np.diff(picture, axis=axis), inside))
    blurred = np.abs(_kept(np.diff(cv2.blur(picture, kernel), axis=axis), inside))
    total = float(steps.sum())
    return 1.0 - float(np.maximum(0.0, steps - blurred).sum()) / total if total > 0 else 1.0
