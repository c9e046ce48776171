"""What the store refuses waits in memory, in order, and is written as soon as it takes it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from pipeline.messages import Caption
from pipeline.store.store import Event, Store, StoreError

__all__ = ["Backlog", "Work"]

log = logging.getLogger(__name__)

ItemT = TypeVar("ItemT")
_MAX_SNAPSHOTS = 200  # of at most 64 KiB each


@dataclass(frozen=True, slots=True)
class Work(Generic[ItemT]):
    """Something to be made durable before it goes on: ``item`` is given back when it may."""

    item: ItemT
    events: tuple[Event, ...] = ()
    captions: tuple[Caption, ...] = ()


class Backlog(Generic[ItemT]):
    """Writes work through to the store; for one thread.

    Work without events does not wait: a caption that cannot be archived still goes on. Work with
    events is held until it is durable, however long that takes; past 200 the pictures of the
    oldest are let go, so that memory stays bounded by what an event's text takes.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: list[Work[ItemT]] = []
        self._state: dict[str, Any] = {}
        self.error: str | None = None
        """Why the store takes nothing now, or None."""

    def __len__(self) -> int:
        return len(self._held)

    def save(
        self, state: Mapping[str, Any] | None, *new: Work[ItemT]
    ) -> list[tuple[ItemT, tuple[int, ...]]]:
        """Write what is held, the new work and the state in one transaction.

        Returns:
            The items that may go on, each with its events' numbers; no numbers for an item
            without events.

        """
        work = [*self._held, *new]
        self._state |= state or {}  # what was refused before is written with what comes next
        events = [event for each in work for event in each.events]
        captions = [caption for each in work for caption in each.captions]
        try:
            numbers = iter(self._store.record(events, self._state, captions))
        except StoreError as error:
            return self._hold(work, error)
        if self.error is not None:
            log.warning("store: written again; %d events that waited are safe", len(events))
            self.error = None
        self._held, self._state = [], {}
        return [(each.item, tuple(next(numbers) for _ in each.events)) for each in work]

    def give_up(self) -> list[ItemT]:
        """Forget what is held and return its items: the run ends and the disk is still full."""
        items = [work.item for work in self._held]
        self._held = []
        return items

    def _hold(
        self, work: Sequence[Work[ItemT]], error: StoreError
    ) -> list[tuple[ItemT, tuple[int, ...]]]:
        self._held = [replace(each, captions=()) for each in work if each.events]
        pictured = [
            at for at, each in enumerate(self._held) if any(jpeg for _, jpeg in each.events)
        ]
        for at in pictured[:-_MAX_SNAPSHOTS]:
            bare = tuple((event, None) for event, _ in self._held[at].events)
            self._held[at] = replace(self._held[at], events=bare)
        if self.error is None:
            log.error("alerts wait in memory until the store can be written: %s", error)
        self.error = str(error)
        return [(each.item, ()) for each in work if not each.events]
