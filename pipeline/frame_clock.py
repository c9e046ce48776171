"""Media time that never steps back, and the choice of the frames that are looked at."""

from __future__ import annotations

__all__ = ["FrameSampler", "MediaClock", "tick_slack_s"]

_LONGEST_GAP_S = 3600.0
_SLACK_S = 5e-4  # media times are rounded to the container's time base


def tick_slack_s(per_second: float, live: bool) -> float:
    """How much before a tick of so many a second a frame may come and still belong to it, in s.

    Live frames have the time of their arrival, which wavers: from a camera that brings just one
    frame a tick, those that come a little early would be taken for a second one of the tick before,
    and left out. A recording's times are exact but for the rounding to its time base.
    """
    return 0.25 / per_second if live else _SLACK_S


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

    Which frames a file gives depends on their times alone, never on the speed of playing. Of a
    ``live`` source a frame that comes a little early counts for the tick that it just missed.
    """

    def __init__(self, analysis_fps: float, live: bool = False) -> None:
        self._fps = analysis_fps
        self._slack_s = tick_slack_s(analysis_fps, live)
        self._last_tick = -1

    def wants(self, time_s: float) -> bool:
        """Whether the frame at ``time_s`` (seconds from the start, not decreasing) is looked at."""
        tick = int((time_s + self._slack_s) * self._fps)
        if tick <= self._last_tick:
            return False
        self._last_tick = tick
        return True
