"""Brings people's reviews from Redis to the rules of a running program."""

from __future__ import annotations

import logging
import queue
import threading

from pipeline.alerts.codec import decode_review
from pipeline.alerts.subscriber import subscribe
from pipeline.config import RedisConfig
from pipeline.messages import Review

__all__ = ["ReviewFollower"]

log = logging.getLogger(__name__)


class ReviewFollower:
    """One thread that reads the stream for acknowledged, snoozed and resolved.

    Args:
        config: Prefix and time-outs.
        url: Redis.
        since: Stream id of the last review known; None starts with what comes now.

    """

    def __init__(self, config: RedisConfig, url: str, since: str | None) -> None:
        self._reviews: queue.SimpleQueue[tuple[str, Review]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._events = subscribe(
            url,
            since=since,
            type="watchword.alert.*",
            prefix=config.prefix,
            timeout_s=config.timeout_s,
            keep_going=lambda: not self._stop.is_set(),
        )
        self._thread = threading.Thread(target=self._run, name="watchword-reviews", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def take(self) -> list[tuple[str, Review]]:
        """Give what has come since the last call: stream id and review, in order; never waits."""
        found = []
        while True:
            try:
                found.append(self._reviews.get_nowait())
            except queue.Empty:
                return found

    def stop(self) -> None:
        """End the thread. Idempotent."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)

    def _run(self) -> None:
        for event in self._events:
            review = decode_review(event.type, event.data)
            if review is not None:
                self._reviews.put((event.stream_id, review))
