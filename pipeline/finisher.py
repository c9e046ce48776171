"""Finishes recordings beside the run: writing a video takes long, and no stage may wait for it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from pipeline.outputs import OutputError
from pipeline.store import StoreError

__all__ = ["Finisher"]

log = logging.getLogger(__name__)


class Finisher:
    """One thread that finishes what it is given, in turn.

    What cannot be written (a full disk) is told and left to the end of the run, which tries again.

    Args:
        finish: Called with each camera.

    """

    def __init__(self, finish: Callable[[str], None]) -> None:
        self._finish = finish
        self._waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchword-finisher", daemon=True)
        self.error: Exception | None = None
        """The first failure that nobody expected, or None."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, camera: str) -> None:
        """Finish this recording when its turn comes; any thread may call."""
        self._waiting.put(camera)

    def close(self, give_up: bool = False) -> None:
        """Wait for all that waits, or, giving up, only for what is under way. Idempotent."""
        if give_up:
            self._given_up.set()
        self._waiting.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while (camera := self._waiting.get()) is not None:
            if self._given_up.is_set():
                continue
            try:
                self._finish(camera)
            except (OutputError, StoreError) as error:
                log.warning("%s is not finished yet: %s", camera, error)
            except Exception as error:
                log.debug("finishing %s failed", camera, exc_info=error)
                self.error = self.error or error
