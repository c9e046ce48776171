"""A frame made small: the encoder's square, the preview, and how much changed."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["change_between", "preview_size", "shrink_to", "thumbnail"]

_THUMBNAIL_PIXELS = 56


def preview_size(width: int, height: int, longest: int) -> tuple[int, int]:
    """Width and height, pixels, of the preview: the picture's aspect, never enlarged."""
    scale = min(1.0, longest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def shrink_to(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resize (H, W, 3) uint8 to ``width`` x ``height``.

    Halves by area first while there is more than twice too much (OpenCV's fast path: a quarter
    of the cost of area resizing at once, at 1080p, with its freedom from aliasing), then linear.
    """
    while image.shape[1] >= 2 * width and image.shape[0] >= 2 * height:
        half = (image.shape[1] // 2, image.shape[0] // 2)
        even = image[: half[1] * 2, : half[0] * 2]
        image = np.asarray(cv2.resize(even, half, interpolation=cv2.INTER_AREA), np.uint8)
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def thumbnail(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a small grey picture of the encoder's square, to compare with the next."""
    grey = cv2.cvtColor(square, cv2.COLOR_RGB2GRAY)
    size = (_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS)
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def change_between(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    """Mean absolute grey difference of two thumbnails, 0..1."""
    return float(cv2.absdiff(before, after).mean()) / 255.0
