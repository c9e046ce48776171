"""From where a model looked to a box in the picture."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.messages import Region

__all__ = ["region_of"]

_REGION_SHARE = 0.5  # cells with at least this share of the strongest cell's attention


def region_of(attention: NDArray[np.float32]) -> Region | None:
    """Box around the strongest attention on the window's last frame.

    Args:
        attention: (T, rows, columns), weights over the window's frames, oldest first.

    Returns:
        The bounding box of all cells with at least half of the strongest cell's weight, in
        fractions of the picture, or None where there is no attention at all.

    """
    last = attention[-1]
    strongest = float(last.max(initial=0.0))
    if not math.isfinite(strongest) or strongest <= 0:
        return None
    rows, columns = np.nonzero(last >= _REGION_SHARE * strongest)
    height, width = last.shape
    top, left = int(rows.min()), int(columns.min())
    return Region(
        x=left / width,
        y=top / height,
        width=(int(columns.max()) + 1 - left) / width,
        height=(int(rows.max()) + 1 - top) / height,
    )
