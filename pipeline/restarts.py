"""When a child is started again: a budget for crashes, and jittered back-off for cameras."""

from __future__ import annotations

import random
from collections import deque

__all__ = ["RestartBudget", "RestartPolicy"]

_FIRST_DELAY_S = 0.5
_QUICK_LIMIT_S = 4.0  # with the second a reopen takes: back within 5 s of the camera's return
_QUICK_PHASE_S = 300.0
_SLOW_LIMIT_S = 30.0


class RestartBudget:
    """At most ``restarts`` within ``window_s`` seconds."""

    def __init__(self, restarts: int, window_s: float) -> None:
        self._restarts = restarts
        self._window_s = window_s
        self._spent: deque[float] = deque()

    def spend(self, now_s: float) -> bool:
        """Count one restart at monotonic time ``now_s``; False when that is one too many."""
        self._spent.append(now_s)
        while now_s - self._spent[0] > self._window_s:
            self._spent.popleft()
        return len(self._spent) <= self._restarts


class RestartPolicy:
    """Delays for one camera; knows no clock, every call says what time it is (seconds)."""

    def __init__(self, budget: int, window_s: float, chance: random.Random) -> None:
        self._budget = RestartBudget(budget, window_s)
        self._chance = chance
        self._attempts = 0
        self._failing_since_s: float | None = None
        self.exhausted = False
        """Whether the last end of a child was a crash past the budget."""

    def frame_came(self) -> None:
        """Note that the camera works: the next failure starts a new back-off."""
        self._attempts = 0
        self._failing_since_s = None
        self.exhausted = False

    def after_failure(self, now_s: float) -> float:
        """Seconds to wait after the source failed: 0.5 doubling to 4, past five minutes to 30."""
        self.exhausted = False  # it did not crash this time
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        quick = now_s - self._failing_since_s < _QUICK_PHASE_S
        limit_s = _QUICK_LIMIT_S if quick else _SLOW_LIMIT_S
        delay_s = min(limit_s, _FIRST_DELAY_S * 2.0 ** min(self._attempts, 10))
        self._attempts += 1
        return delay_s * self._chance.uniform(0.5, 1.0)

    def after_refusal(self) -> float:
        """Seconds to wait after a wrong password and the like: do not lock the account."""
        self.exhausted = False
        return _SLOW_LIMIT_S

    def after_crash(self, now_s: float) -> float:
        """Seconds to wait after the process died; sets :attr:`exhausted` past the budget."""
        self.exhausted = not self._budget.spend(now_s)
        if self.exhausted:
            return _SLOW_LIMIT_S
        return _FIRST_DELAY_S * self._chance.uniform(0.5, 1.0)
