"""How many items go through the model at once: as many as pay, fewer when memory runs out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["BatchLimit", "best_batch_size", "is_out_of_memory", "most_that_fits"]

In = TypeVar("In")
Out = TypeVar("Out")

_GROW_AFTER = 50
_ENOUGH = 0.9
_RUNS = 3
_HOPELESS = 2.0
"""So many times the budget in a first run is not chance."""


class BatchLimit:
    """Runs work in parts of a size that memory allows.

    When a part fails for want of memory the size is halved and the part run again; after
    50 parts that went well it is doubled, up to ``most``.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.size = most
        self.halvings = 0
        self._went_well = 0

    def run(self, items: Sequence[In], work: Callable[[Sequence[In]], Sequence[Out]]) -> list[Out]:
        """Return what ``work`` makes of all items, in order; each part is run to its end once.

        Raises:
            Exception: What ``work`` raises; want of memory only when even one item is too many.

        """
        done: list[Out] = []
        while len(done) < len(items):
            part = items[len(done) : len(done) + self.size]
            try:
                done.extend(work(part))
            except Exception as error:
                if not is_out_of_memory(error) or len(part) == 1:
                    raise
                self._shrink(len(part))
            else:
                self._grow()
        return done

    def _shrink(self, failed: int) -> None:
        self.size = max(1, failed // 2)
        self.halvings += 1
        self._went_well = 0

    def _grow(self) -> None:
        self._went_well += 1
        if self.size < self.most and self._went_well >= _GROW_AFTER:
            self.size = min(self.most, self.size * 2)
            self._went_well = 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory: numpy's, torch's or a CUDA device's."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        sign in text for sign in ("out of memory", "can't allocate memory", "bad_alloc")
    )


def most_that_fits(work: Callable[[int], object], most: int) -> int:
    """Find the largest of ``most``, its half and so on for which there is memory, by trying.

    Raises:
        Exception: What ``work`` raises; want of memory only when even one item is too many.

    """
    size = most
    while True:
        try:
            work(size)
        except Exception as error:
            if not is_out_of_memory(error) or size == 1:
                raise
            size //= 2
        else:
            return size


def best_batch_size(
    work: Callable[[int], object],
    most: int,
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Find how far throughput holds beyond its knee, by measuring powers of two up to ``most``.

    Gives the largest size that does 90 % of the most items a second, among those whose batch takes
    at most ``budget_s`` and for which there is memory: a batch holds what waits, so a higher limit
    costs nothing while little does, and on the plateau beyond the knee chance alone would choose
    the smallest. ``work(n)`` does a batch of n. A machine that is busy with other things makes
    single runs slow, so a size counts by the least of three runs, and the sizes take turns.
    """
    took_s: dict[int, float] = {}
    size = 1
    while size <= most:
        try:
            work(size)  # the first run of a size may set it up
            took_s[size] = _time(work, size, clock)
        except Exception as error:
            if not is_out_of_memory(error) or size == 1:
                raise
            break
        if took_s[size] > _HOPELESS * budget_s:
            break
        size *= 2
    for _ in range(_RUNS - 1):
        for size, least_s in took_s.items():
            took_s[size] = min(least_s, _time(work, size, clock))
    rates = {n: n / least_s for n, least_s in took_s.items() if n == 1 or least_s <= budget_s}
    enough = _ENOUGH * max(rates.values())
    return max(size for size, rate in rates.items() if rate >= enough)


def _time(work: Callable[[int], object], size: int, clock: Callable[[], float]) -> float:
    began_s = clock()
    work(size)
    return max(clock() - began_s, 1e-9)
