"""Which picture from shortly before is kept for the next look, and what the two say of motion."""

from __future__ import annotations

import math
from collections import deque

from pipeline.pictures import Picture
from pipeline.scuffle import BEFORE_S, Grey, log_odds, motion_picture

__all__ = ["MotionWatch"]

_SLOWEST_S = 0.175  # between frames: six a second, and some of them late
_LONG_S, _LONGEST_S = 0.15, 0.2
_SHORTEST_S = 0.05
_FRAMES = 9
_SLACK = 0.3  # frames: those of a live camera come early or late


class MotionWatch:
    """Holds each picture that is looked at against one from about :data:`BEFORE_S` before it.

    Told of every grabbed frame, it knows how far apart frames are: by the mean of the last few,
    since those of a live camera come in bunches. Where they are more than a sixth of a second
    apart, as key frames are, there is no such picture, and what is not known stays unknown. Every
    second look is held against one: a window holds enough of them, and it halves the cost.
    """

    def __init__(self) -> None:
        self._times_s: deque[float] = deque(maxlen=_FRAMES)
        self._frame = 0
        self._kept: tuple[int, Grey] | None = None
        self._rests = False

    def note(self, time_s: float) -> None:
        """Take note of a grabbed frame; times are seconds on one clock."""
        self._frame += 1
        if self._times_s and time_s < self._times_s[-1]:
            self._times_s.clear()
            self._kept = None
        self._times_s.append(time_s)

    def wants(self, next_s: float) -> bool:
        """Whether the frame noted last is to be kept for the look that is due at ``next_s``."""
        step_s = self._step_s
        if self._rests or step_s is None:
            return False
        to_look = max(1, math.ceil((next_s - self._times_s[-1]) / step_s - _SLACK))
        if to_look > max(1, round(BEFORE_S / step_s - _SLACK)):
            return False
        return self._kept is None or (self._frame - self._kept[0] + to_look) * step_s > _LONG_S

    def keep(self, picture: Picture | None) -> None:
        """Keep the frame noted last; None where it is broken."""
        self._kept = None if picture is None else (self._frame, motion_picture(picture.image))

    def look(self, picture: Picture) -> float | None:
        """Log-odds of a scuffle by the frame noted last and the one kept; None if unknown."""
        self._rests = False
        if self._kept is None or self._step_s is None:
            return None
        frame, before = self._kept
        self._kept = None
        gap_s = (self._frame - frame) * self._step_s
        now = motion_picture(picture.image)
        if not _SHORTEST_S <= gap_s <= _LONGEST_S or before.shape != now.shape:
            return None
        self._rests = True
        return log_odds(before, now, gap_s)

    @property
    def _step_s(self) -> float | None:
        """Seconds from frame to frame, None where they are unknown or too many."""
        if len(self._times_s) < 2:
            return None
        step_s = (self._times_s[-1] - self._times_s[0]) / (len(self._times_s) - 1)
        return step_s if 0.0 < step_s <= _SLOWEST_S else None
