"""The bounded queue between two stages: the only place where work waits and is dropped.

A channel has *lanes*, one per camera (or a single one), each of bounded capacity. Taking is
fair: lanes are served in turn, so a busy camera cannot starve a quiet one. What happens when a
lane is full is a named policy, and whatever is dropped goes to ``on_drop`` with its reason, so
that accounting can be exact.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable
from enum import Enum
from typing import Generic, TypeVar

__all__ = ["Channel", "ChannelClosed", "Overflow"]

T = TypeVar("T")


class ChannelClosed(Exception):
    """Raised by :meth:`Channel.put` after :meth:`Channel.close`: nobody will take the item."""


class Overflow(str, Enum):
    """What a full lane does with one more item."""

    WAIT = "wait"
    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"


class Channel(Generic[T]):
    """A bounded, closable, multi-lane queue for threads.

    Args:
        name: For health and metrics.
        capacity: Items per lane, at least 1.
        overflow: What a full lane does.
        on_drop: Called without the lock held, with each dropped item and the reason.

    """

    def __init__(
        self,
        name: str,
        capacity: int,
        overflow: Overflow = Overflow.WAIT,
        on_drop: Callable[[T, str], None] | None = None,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"channel {name}: capacity must be at least 1, not {capacity}")
        self.name = name
        self.capacity = capacity
        self.overflow = overflow
        self._on_drop = on_drop
        # Insertion order is serving order: a lane that was served moves to the end.
        self._lanes: OrderedDict[Hashable, deque[T]] = OrderedDict()
        self._closed = False
        self._takers = 0
        self._waiting_since_s = 0.0
        self._lock = threading.Lock()
        self._not_empty = threading.Condition(self._lock)
        self._not_full = threading.Condition(self._lock)

    def __len__(self) -> int:
        with self._lock:
            return sum(len(lane) for lane in self._lanes.values())

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called; items may still wait inside."""
        return self._closed

    def put(
        self,
        item: T,
        lane: Hashable = None,
        overflow: Overflow | None = None,
        capacity: int | None = None,
    ) -> bool:
        """Put one item; return False if *this* item was dropped (``drop_newest``).

        ``overflow`` overrides the channel's policy for this item (a file waits where a live
        camera drops), ``capacity`` the lane's (a file may fill all its slots).

        Raises:
            ChannelClosed: The channel is or becomes closed.

        """
        policy = overflow or self.overflow
        limit = capacity or self.capacity
        dropped: T | None = None
        kept = True
        with self._lock:
            queue = self._lanes.setdefault(lane, deque())
            while not self._closed and len(queue) >= limit and policy is Overflow.WAIT:
                self._not_full.wait()
            if self._closed:
                raise ChannelClosed(self.name)
            if not any(self._lanes.values()):
                self._waiting_since_s = time.monotonic()
            if len(queue) < limit:
                queue.append(item)
            elif policy is Overflow.DROP_OLDEST:
                dropped = queue.popleft()
                queue.append(item)
            else:
                dropped, kept = item, False
            self._not_empty.notify()
        if dropped is not None and self._on_drop is not None:
            self._on_drop(dropped, "queue_full")
        return kept

    def take(
        self,
        max_items: int = 1,
        max_wait_s: float | None = None,
        linger_s: float = 0.0,
        per_lane: int | None = None,
    ) -> list[T]:
        """Take up to ``max_items``: wait for the first, then linger for more.

        Args:
            max_items: The most items to return.
            max_wait_s: How long to wait for the first item; None waits until there is one or the
                channel is closed.
            linger_s: How long items may wait for others to come, from the first one's coming on.
            per_lane: The most items from one lane, or None for no limit.

        Returns:
            The items, lanes in turn, each lane in order. Empty when nothing came in time, or
            when the channel is closed and drained (see :attr:`drained`).

        """
        with self._lock:
            self._takers += 1
            self._not_full.notify_all()  # one of them may wait to be wanted
            try:
                self._wait_for(1, max_wait_s, per_lane)
                if linger_s > 0 and self._available(per_lane) > 0:
                    left_s = self._waiting_since_s + linger_s - time.monotonic()
                    self._wait_for(max_items, left_s, per_lane)
            finally:
                self._takers -= 1
            taken = self._pop(max_items, per_lane)
            if taken:
                self._not_full.notify_all()
            return taken

    def wait_until_wanted(self) -> None:
        """Wait until somebody is taking and there is nothing to take, or the channel is closed."""
        with self._lock:
            while not self._closed and (self._takers == 0 or any(self._lanes.values())):
                self._not_full.wait()

    @property
    def drained(self) -> bool:
        """Whether the channel is closed and nothing waits inside."""
        with self._lock:
            return self._closed and not any(self._lanes.values())

    def close(self) -> None:
        """Accept no more items; what waits inside can still be taken. Idempotent."""
        with self._lock:
            self._closed = True
            self._not_empty.notify_all()
            self._not_full.notify_all()

    def remove_lane(self, lane: Hashable) -> None:
        """Forget a lane (its camera is gone); what waited in it is dropped as ``removed``."""
        with self._lock:
            rest = list(self._lanes.pop(lane, ()))
            self._not_full.notify_all()
        if self._on_drop is not None:
            for item in rest:
                self._on_drop(item, "removed")

    def clear(self) -> list[T]:
        """Take everything at once, in no promised order; used when a run is cut short."""
        with self._lock:
            rest = [item for lane in self._lanes.values() for item in lane]
            for lane in self._lanes.values():
                lane.clear()
            self._not_full.notify_all()
            return rest

    def _available(self, per_lane: int | None) -> int:
        sizes: Iterable[int] = (len(lane) for lane in self._lanes.values())
        return sum(sizes) if per_lane is None else sum(min(size, per_lane) for size in sizes)

    def _wait_for(self, wanted: int, timeout_s: float | None, per_lane: int | None) -> None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self._available(per_lane) < wanted and not self._closed:
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                return
            self._not_empty.wait(remaining)

    def _pop(self, max_items: int, per_lane: int | None) -> list[T]:
        taken: list[T] = []
        rounds = per_lane if per_lane is not None else max_items
        for _ in range(rounds):
            before = len(taken)
            for lane in list(self._lanes):
                if len(taken) == max_items:
                    return taken
                queue = self._lanes[lane]
                if queue:
                    taken.append(queue.popleft())
                    self._lanes.move_to_end(lane)
            if len(taken) == before:
                break
        return taken
