"""Publishes what waits in the outbox: in order, at least once, never in the pipeline's way."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from pipeline.redaction import redact
from pipeline.store import OutboxEntry, Store, StoreError

__all__ = ["EventRefused", "Publisher", "Publishers", "Sink", "SinkError"]

log = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.1
_AT_ONCE = 100


class SinkError(Exception):
    """The sink does not take an event now; the same one is sent again later."""


class EventRefused(Exception):
    """The sink will never take this event; it is passed over, and that is said."""


class Sink(Protocol):
    """Where events go.

    ``name`` is the sink's in the outbox, ``timeout_s`` bounds one call, and ``longest_retry_s`` is
    how far the waits between tries grow.
    """

    name: str
    timeout_s: float
    longest_retry_s: float

    def send(self, entry: OutboxEntry) -> None:
        """Deliver one event; a repeated id has no second effect where the sink can tell.

        Raises:
            SinkError: Not now.
            EventRefused: Never.

        """

    def idle(self) -> None:
        """Do what need not wait for an event; called about once a second while none waits.

        Raises nothing for a sink that is away.
        """

    def close(self) -> None:
        """Hang up."""


class Publisher:
    """One thread from the outbox to one sink.

    Retries for ever with bounded, jittered waits; an event is marked published only after the
    sink has answered.
    """

    def __init__(
        self, store: Store, sink: Sink, on_published: Callable[[str], None] = lambda event_id: None
    ) -> None:
        self._store = store
        self._sink = sink
        self._on_published = on_published
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._drain_by: float | None = None
        self._unmarked: set[int] = set()
        self.failures = 0
        self.refused = 0
        self.last_error: str | None = None
        name = f"watchword-publisher-{sink.name}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Say that the outbox has something new."""
        self._wake.set()

    @property
    def sink(self) -> str:
        """The sink's name."""
        return self._sink.name

    def drain(self, timeout_s: float) -> None:
        """Publish what waits, for at most so long, then end; does not wait for it."""
        if self._drain_by is None:
            self._drain_by = time.monotonic() + timeout_s
        self._ending.set()
        self._wake.set()

    def stop(self, drain_timeout_s: float = 5.0) -> int:
        """Publish what waits, for at most ``drain_timeout_s``, and end; return how many are left.

        What is left stays in the outbox; the next run with the same store publishes it.
        """
        self.drain(drain_timeout_s)
        if self._thread.ident is not None:
            self._thread.join(drain_timeout_s + 2 * self._sink.timeout_s)
        self._sink.close()
        return self._store.depth(self._sink.name)

    def _run(self) -> None:
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                sent = self._publish_pending()
                if not sent and self._drain_by is None:
                    self._sink.idle()
                retry_s = _FIRST_RETRY_S
            except Exception as error:  # this thread ends only when told to
                if not isinstance(error, (SinkError, StoreError)):
                    log.exception("publisher to %s: unexpected; trying again", self._sink.name)
                self._note(error)
                if self._past_drain():
                    return
                # Not on the wake event: each new alert would wake it, and hammer an ill sink.
                if self._ending.wait(random.uniform(0.5, 1.0) * retry_s):
                    time.sleep(_FIRST_RETRY_S)  # the last tries, close together
                retry_s = min(2 * retry_s, self._sink.longest_retry_s)
                continue
            if self._drain_by is not None and (not sent or self._past_drain()):
                return
            if not sent:
                self._wake.wait(1.0)
                self._wake.clear()

    def _publish_pending(self) -> int:
        for seq in tuple(self._unmarked):
            self._mark(seq)
        waiting = self._store.pending(self._sink.name, _AT_ONCE + len(self._unmarked))
        entries = [entry for entry in waiting if entry.seq not in self._unmarked]
        for entry in entries:
            self._send(entry)
            self._mark(entry.seq)
            self._on_published(entry.id)
        if entries and self.last_error is not None:
            log.warning("%s is back; %d waiting events published", self._sink.name, len(entries))
            self.last_error = None
        return len(entries)

    def _send(self, entry: OutboxEntry) -> None:
        try:
            self._sink.send(entry)
        except EventRefused as error:
            self.refused += 1
            log.error(  # noqa: TRY400 - the reason says it all
                "%s refuses event %s for good: %s", self._sink.name, entry.id, redact(str(error))
            )

    def _mark(self, seq: int) -> None:
        """Note that an event is out; on a full disk in memory, so that the next get out too."""
        try:
            self._store.mark_published(seq, self._sink.name)
            self._unmarked.discard(seq)
        except StoreError:
            self._unmarked.add(seq)

    def _note(self, error: Exception) -> None:
        self.failures += 1
        text = redact(str(error))
        if self.last_error is None:
            log.warning("alerts for %s wait in the outbox: %s", self._sink.name, text)
        self.last_error = text

    def _past_drain(self) -> bool:
        return self._drain_by is not None and time.monotonic() > self._drain_by


class Publishers:
    """All publishers of a run, one a sink; Redis's is the first."""

    def __init__(self, publishers: Sequence[Publisher]) -> None:
        self._publishers = tuple(publishers)

    def failures(self) -> dict[str, int]:
        """How many tries of each sink have failed."""
        return {publisher.sink: publisher.failures for publisher in self._publishers}

    def start(self) -> None:
        """Start all threads."""
        for publisher in self._publishers:
            publisher.start()

    def wake(self) -> None:
        """Say that the outbox has something new."""
        for publisher in self._publishers:
            publisher.wake()

    def stop(self, drain_timeout_s: float = 5.0) -> dict[str, int]:
        """Let all drain at the same time, and end; return what is left, by sink that has any."""
        for publisher in self._publishers:
            publisher.drain(drain_timeout_s)
        left = {publisher.sink: publisher.stop(drain_timeout_s) for publisher in self._publishers}
        return {sink: count for sink, count in left.items() if count}
