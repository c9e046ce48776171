"""Keeps the store within its limits while a run goes on."""

from __future__ import annotations

import logging
import threading

from pipeline.store.retention import Retention
from pipeline.store.store import Store, StoreError

__all__ = ["Housekeeper"]

log = logging.getLogger(__name__)


class Housekeeper:
    """One thread that prunes the store now and then, a few hundred rows at a time."""

    def __init__(self, store: Store, limits: Retention, every_s: float = 60.0) -> None:
        self._store = store
        self._limits = limits
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchword-housekeeper", daemon=True)

    def start(self) -> None:
        """Start the thread; it prunes at once."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Idempotent."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stop.wait(pause_s):
            try:
                # A pause between two helpings lets whoever records have its turn.
                pause_s = 0.1 if self._store.prune(self._limits) else self._every_s
            except StoreError as error:
                log.warning("old captions and events stay for now: %s", error)
                pause_s = self._every_s
