"""Media time that never steps back, and the choice of the frames that are looked at."""

from __future__ import annotations

__all__ = ["FrameSampler", "MediaClock"]

_LONGEST_GAP_S = 3600.0
_SLACK_S = 5e-4  # media times are rounded to the container's time base


class MediaClock:
    """Turns a decoder's positions into media time that strictly increases.

    A position that stands still, steps back or leaps more than an hour ahead is a fault of the
    file: time then goes on by one nominal frame, later positions are shifted to follow, and
    :attr:`faults` counts it.
    """

    def __init__(self, nominal_fps: float) -> None:
        plausible = 0.01 <= nominal_fps <= 1000.0
        self._frame_s = 1.0 / nominal_fps if plausible else 1.0 / 25.0
        self._shift_s = 0.0
        self._last_s: float | None = None
        self.faults = 0

    def advance(self, position_s: float) -> float:
        """Media time of the next frame, seconds, given the decoder's position for it."""
        time_s = position_s + self._shift_s
        if self._last_s is None:
            if not 0.0 <= time_s <= _LONGEST_GAP_S:
                self.faults += 1
                self._shift_s, time_s = -position_s, 0.0
        elif not 0.0 < time_s - self._last_s <= _LONGEST_GAP_S:
            self.faults += 1
            time_s = self._last_s + self._frame_s
            self._shift_s = time_s - position_s
        self._last_s = time_s
        return time_s


class FrameSampler:
    """Picks the first frame of every 1 / ``analysis_fps`` seconds of the source's own time.

    Which frames a file gives depends on their times alone, never on the speed of playing.
    """

    def __init__(self, analysis_fps: float) -> None:
        self._fps = analysis_fps
        self._last_tick = -1

    def wants(self, time_s: float) -> bool:
        """Whether the frame at ``time_s`` (seconds from the start, not decreasing) is looked at."""
        tick = int((time_s + _SLACK_S) * self._fps)
        if tick <= self._last_tick:
            return False
        self._last_tick = tick
        return True
