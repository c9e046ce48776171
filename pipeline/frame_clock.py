"""Media time that never steps back, and the choice of the frames that are looked at."""

from __future__ import annotations

__all__ = ["MediaClock", "Ticks", "TokenBucket", "schedule"]

_LONGEST_GAP_S = 3600.0
_SLACK_S = 5e-4  # media times are rounded to the container's time base
_ROUNDING = 1e-6


class Ticks:
    """Grants the first frame of every 1 / ``per_second`` seconds of a recording.

    Which frames these are depends on their times alone, never on the speed of playing.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._last_tick = -1

    @property
    def next_s(self) -> float:
        """Time from which on the next frame is granted."""
        return (self._last_tick + 1) / self._per_second - _SLACK_S

    def take(self, time_s: float) -> bool:
        """Whether the frame at ``time_s`` (seconds from the first, not decreasing) is granted."""
        tick = int((time_s + _SLACK_S) * self._per_second)
        if tick <= self._last_tick:
            return False
        self._last_tick = tick
        return True


class TokenBucket:
    """Grants ``per_second`` frames a second of a live source, however bunched they arrive.

    A right to one frame accrues with time, and what was not used is kept for one frame more. So a
    frame that comes late and the next that follows at once are granted both, and yet until any time
    no more than 1 + ``per_second`` x the seconds since the first one.
    """

    _MOST = 2.0

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._tokens = 1.0
        self._last_s: float | None = None

    @property
    def next_s(self) -> float:
        """Time from which on the next frame is granted."""
        if self._last_s is None:
            return float("-inf")
        return self._last_s + max(0.0, 1.0 - _ROUNDING - self._tokens) / self._per_second

    def take(self, time_s: float) -> bool:
        """Whether the frame that came at ``time_s`` (not decreasing) is granted."""
        if self._last_s is not None:
            accrued = (time_s - self._last_s) * self._per_second
            self._tokens = min(self._MOST, self._tokens + accrued)
        self._last_s = time_s
        if self._tokens < 1.0 - _ROUNDING:
            return False
        self._tokens -= 1.0
        return True


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


def schedule(per_second: float, live: bool) -> Ticks | TokenBucket:
    """Choose which frames are granted: of a recording by their times, of a live source by arrival.

    A recording's times are exact, and it must give the same at any speed. Live frames have the time
    of their arrival, which wavers: those of a busy machine come in bunches.
    """
    return TokenBucket(per_second) if live else Ticks(per_second)
