"""Camera events on their way into the outbox; a full disk delays them and loses none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from pipeline.alerts.codec import encode_camera_event
from pipeline.messages import CameraEvent
from pipeline.store import Backlog, Store, Work

__all__ = ["CameraEventDesk"]


class CameraEventDesk:
    """Makes camera events durable, then hands them on with their numbers. Any thread may call.

    Args:
        store: Where they go.
        on_stored: Told each event once it is durable, numbered.

    """

    def __init__(self, store: Store, on_stored: Callable[[CameraEvent], None]) -> None:
        self._backlog: Backlog[CameraEvent] = Backlog(store)
        self._on_stored = on_stored
        self._lock = threading.Lock()

    def tell(self, event: CameraEvent) -> None:
        """Take a new event."""
        self._save(Work(event, ((encode_camera_event(event), None),)))

    def retry(self) -> None:
        """Write what the store refused before; cheap when there is nothing."""
        if self._backlog:
            self._save()

    def _save(self, *new: Work[CameraEvent]) -> None:
        with self._lock:
            for event, numbers in self._backlog.save(None, *new):
                self._on_stored(replace(event, seq=numbers[0]))
