"""The accounting of a run, in the terms the interfaces fix, per camera and in total."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.outputs.lines import rounded

__all__ = ["CameraSummary", "RunSummary"]


@dataclass(frozen=True, slots=True)
class CameraSummary:
    """Where every frame and every window of one camera went.

    grabbed = unsampled + skipped + dropped + failed + encoded, and
    windows = captioned + windows_dropped + windows_failed; reasons map to counts.
    ``partial`` are those of the captioned whose caption found no end.
    """

    camera: str
    grabbed: int = 0
    unsampled: int = 0
    skipped: int = 0
    encoded: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    windows: int = 0
    captioned: int = 0
    windows_dropped: Mapping[str, int] = field(default_factory=dict)
    windows_failed: Mapping[str, int] = field(default_factory=dict)
    media_s: float | None = None
    error: str | None = None
    partial: int = 0

    @property
    def frames_in_flight(self) -> int:
        """Frames that are in no book yet: zero after a drain."""
        gone = self.unsampled + self.skipped + self.encoded
        return self.grabbed - gone - sum(self.dropped.values()) - sum(self.failed.values())

    @property
    def windows_in_flight(self) -> int:
        """Windows that are in no book yet: zero after a drain."""
        lost = sum(self.windows_dropped.values()) + sum(self.windows_failed.values())
        return self.windows - self.captioned - lost

    def to_json(self) -> dict[str, Any]:
        """Make a JSON object of the books."""
        return {
            "camera": self.camera,
            "frames": {
                "grabbed": self.grabbed,
                "unsampled": self.unsampled,
                "skipped": self.skipped,
                "dropped": dict(sorted(self.dropped.items())),
                "failed": dict(sorted(self.failed.items())),
                "encoded": self.encoded,
            },
            "windows": {
                "due": self.windows,
                "captioned": self.captioned,
                "partial": self.partial,
                "dropped": dict(sorted(self.windows_dropped.items())),
                "failed": dict(sorted(self.windows_failed.items())),
            },
            "media_s": rounded(self.media_s),
            "error": self.error,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CameraSummary:
        """Read what :meth:`to_json` made."""
        frames, windows = data["frames"], data["windows"]
        return cls(
            camera=data["camera"],
            **frames,
            windows=windows["due"],
            captioned=windows["captioned"],
            partial=windows["partial"],
            windows_dropped=windows["dropped"],
            windows_failed=windows["failed"],
            media_s=data["media_s"],
            error=data["error"],
        )


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did: the books of each camera, alerts by rule, wall time in seconds.

    ``error`` says in one sentence why the run ended early, where it did.
    """

    cameras: tuple[CameraSummary, ...]
    alerts: Mapping[str, int]
    wall_s: float
    files: tuple[Path, ...] = ()
    interrupted: bool = False
    error: str | None = None

    @property
    def total(self) -> CameraSummary:
        """All cameras' books added up."""
        each = self.cameras
        media = [camera.media_s for camera in each if camera.media_s is not None]
        return CameraSummary(
            camera="total",
            grabbed=sum(camera.grabbed for camera in each),
            unsampled=sum(camera.unsampled for camera in each),
            skipped=sum(camera.skipped for camera in each),
            encoded=sum(camera.encoded for camera in each),
            dropped=_added(camera.dropped for camera in each),
            failed=_added(camera.failed for camera in each),
            windows=sum(camera.windows for camera in each),
            captioned=sum(camera.captioned for camera in each),
            partial=sum(camera.partial for camera in each),
            windows_dropped=_added(camera.windows_dropped for camera in each),
            windows_failed=_added(camera.windows_failed for camera in each),
            media_s=sum(media) if media else None,
        )

    @property
    def captions_per_second(self) -> float:
        """Captions made per second of wall time."""
        return self.total.captioned / self.wall_s if self.wall_s > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Make the last line of ``run --json``, and ``summary.json``."""
        return {
            "type": "summary",
            "cameras": [camera.to_json() for camera in self.cameras],
            "total": self.total.to_json(),
            "alerts": dict(sorted(self.alerts.items())),
            "wall_s": round(self.wall_s, 3),
            "captions_per_second": round(self.captions_per_second, 3),
            "interrupted": self.interrupted,
            "error": self.error,
            "files": [str(path) for path in self.files],
        }


def _added(books: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for book in books:
        total.update(book)
    return dict(total)
