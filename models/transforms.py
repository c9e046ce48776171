"""From a picture of any size to the encoder's square."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["to_square"]


def to_square(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Squash a whole (H, W, 3) picture to (side, side, 3); nothing is cropped away.

    Area averaging where it shrinks (no aliasing), bilinear where it grows.
    """
    height, width = image.shape[:2]
    if (height, width) == (side, side):
        return image
    shrinks = height >= side and width >= side
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (side, side), interpolation=method).astype(np.uint8, copy=False)
