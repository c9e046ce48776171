"""Work not done is the fastest: leaves out frames of a scene in which nothing moves.

Stillness is judged by the block that changed most, against the picture of the last change: so a
small thing that moves opens the gate as a large one does, and a slow change adds up until it does.
A scene must be still for a whole period before anything is left out, and is looked at once a
period all the same: rules that count captions over some seconds see what they would have seen,
and what goes on in a still picture (a person who lies there) does not fall silent.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["ChangeGate", "largest_change"]

_BLOCKS = 7


class ChangeGate:
    """Decides for one camera which frames may be left out.

    Args:
        limit: Change of the most changed block, 0..1, from which a picture counts as changed;
            0 leaves out nothing.
        period_s: How long nothing must have changed, and how often to look all the same, seconds.

    """

    def __init__(self, limit: float, period_s: float) -> None:
        self._limit = limit
        self._period_s = period_s
        self._anchor: NDArray[np.uint8] | None = None
        self._changed_s = 0.0
        self._looked_s = 0.0

    def skips(self, picture: NDArray[np.uint8], time_s: float) -> bool:
        """Whether the frame may be left out; call once a frame, (S, S) uint8 grey, in order."""
        if self._limit <= 0:
            return False
        if self._has_changed(picture, time_s):
            self._anchor, self._changed_s = picture, time_s
        still_s = time_s - self._changed_s
        if still_s > self._period_s and time_s - self._looked_s < self._period_s:
            return True
        self._looked_s = time_s
        return False

    def _has_changed(self, picture: NDArray[np.uint8], time_s: float) -> bool:
        if self._anchor is None or time_s < self._changed_s:  # the first, or the clock jumped back
            return True
        return largest_change(self._anchor, picture) >= self._limit


def largest_change(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    """Mean absolute grey difference, 0..1, of the block of a 7 x 7 grid that differs most."""
    blocks = cv2.resize(
        cv2.absdiff(before, after).astype(np.float32),
        (_BLOCKS, _BLOCKS),
        interpolation=cv2.INTER_AREA,
    )
    return float(blocks.max()) / 255.0
