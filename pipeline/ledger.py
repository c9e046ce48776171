"""Exact accounting: where every frame and every window of every camera went.

    grabbed = unsampled + skipped + dropped + failed + encoded + in flight
    windows = captioned + dropped + failed + in flight

The first four terms up to delivery come from the grabbers (:mod:`pipeline.capture`); this ledger
books what happens to a frame after it was delivered, and to the windows that were due.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["CameraBooks", "Ledger"]


@dataclass(frozen=True, slots=True)
class CameraBooks:
    """One camera's books at one moment: counts of frames and windows, by reason."""

    encoded: int = 0
    dropped: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    failed: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    windows: int = 0
    captioned: int = 0
    windows_dropped: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    windows_failed: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    partial: int = 0
    """Captions, among those captioned, that found no end."""


class Ledger:
    """Thread-safe counters; every method books ``count`` events of one camera."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: defaultdict[str, Counter[tuple[str, str]]] = defaultdict(Counter)

    def encoded(self, camera: str, count: int = 1) -> None:
        """Frames that went through the encoder."""
        self._book(camera, "encoded", "", count)

    def dropped(self, camera: str, reason: str, count: int = 1) -> None:
        """Delivered frames given up before the encoder: ``queue_full``, ``stale``, ``aborted``."""
        self._book(camera, "dropped", reason, count)

    def failed(self, camera: str, reason: str, count: int = 1) -> None:
        """Delivered frames lost to a fault: ``captioner_died``, ``captioner_hung``, ...."""
        self._book(camera, "failed", reason, count)

    def window_due(self, camera: str, count: int = 1) -> None:
        """Windows that were to be captioned."""
        self._book(camera, "windows", "", count)

    def captioned(self, camera: str, count: int = 1) -> None:
        """Windows whose caption was made."""
        self._book(camera, "captioned", "", count)

    def partial(self, camera: str, count: int = 1) -> None:
        """Captions without an end; booked as captioned too."""
        self._book(camera, "partial", "", count)

    def window_dropped(self, camera: str, reason: str, count: int = 1) -> None:
        """Due windows given up on purpose."""
        self._book(camera, "windows_dropped", reason, count)

    def window_failed(self, camera: str, reason: str, count: int = 1) -> None:
        """Due windows lost to a fault."""
        self._book(camera, "windows_failed", reason, count)

    def books(self, camera: str) -> CameraBooks:
        """One camera's counts, all taken at one moment."""
        with self._lock:
            counts = Counter(self._counts[camera])

        def by_reason(term: str) -> Mapping[str, int]:
            return {reason: count for (kind, reason), count in counts.items() if kind == term}

        return CameraBooks(
            encoded=counts["encoded", ""],
            dropped=by_reason("dropped"),
            failed=by_reason("failed"),
            windows=counts["windows", ""],
            captioned=counts["captioned", ""],
            windows_dropped=by_reason("windows_dropped"),
            windows_failed=by_reason("windows_failed"),
            partial=counts["partial", ""],
        )

    def _book(self, camera: str, term: str, reason: str, count: int) -> None:
        with self._lock:
            self._counts[camera][term, reason] += count
