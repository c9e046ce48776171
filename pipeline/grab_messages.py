"""What the main process and a grabber child say to each other, and the capture's accounting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pipeline.config import CaptureConfig, Polygon
from pipeline.messages import FrameRef
from pipeline.sight import Sight
from pipeline.slots import SlotLayout
from pipeline.sources import Source

__all__ = [
    "CaptureAccount",
    "Delivered",
    "Ended",
    "Failed",
    "GrabJob",
    "Grant",
    "Opened",
    "Progress",
    "SourceInfo",
    "Stop",
]


@dataclass(frozen=True, slots=True)
class CaptureAccount:
    """Where the frames of one camera went, up to delivery; counts by reason where they differ.

    A frame is counted once, when its fate is settled, so the equation
    ``grabbed = unsampled + skipped + dropped + failed + delivered`` holds in every message.
    """

    grabbed: int = 0
    unsampled: int = 0
    skipped: int = 0
    delivered: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: CaptureAccount) -> CaptureAccount:
        return CaptureAccount(
            self.grabbed + other.grabbed,
            self.unsampled + other.unsampled,
            self.skipped + other.skipped,
            self.delivered + other.delivered,
            dict(Counter(self.dropped) + Counter(other.dropped)),
            dict(Counter(self.failed) + Counter(other.failed)),
        )

    @property
    def balanced(self) -> bool:
        """Whether every grabbed frame has exactly one fate."""
        given_up = sum(self.dropped.values()) + sum(self.failed.values())
        return self.grabbed == self.unsampled + self.skipped + given_up + self.delivered


@dataclass(frozen=True, slots=True)
class GrabJob:
    """What one grabber child is to do.

    ``first_sequence`` frames were settled by its forerunners: a file goes on after them, a live
    camera only counts on. ``start_time``, when set, is when the recording began. What ``masks``
    cover leaves the child black.
    """

    camera: str
    source: Source
    config: CaptureConfig
    layout: SlotLayout
    first_sequence: int = 0
    masks: tuple[Polygon, ...] = ()
    start_time: datetime | None = None
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """Main to child: these slots are yours to fill."""

    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """Main to child: settle, say :class:`Ended`, and go."""


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What the source says of itself; ``frames`` and ``duration_s`` are None when unknown.

    ``hardware`` is whether something else than the processor decodes it.
    """

    width: int
    height: int
    fps: float
    frames: int | None
    duration_s: float | None
    hardware: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """Child to main: the source is open."""

    info: SourceInfo


@dataclass(frozen=True, slots=True)
class Progress:
    """Child to main, at least every half second while frames come.

    ``newest_ns`` is the monotonic time of the last *new* frame, 0 before the first.
    ``timestamp_faults`` counts media times that stood still or jumped. ``sight`` is what the
    pictures say, None while too few came.
    """

    account: CaptureAccount
    newest_ns: int
    timestamp_faults: int = 0
    sight: Sight | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """Child to main: a slot is filled; ``progress`` counts this frame already."""

    ref: FrameRef
    progress: Progress


@dataclass(frozen=True, slots=True)
class Ended:
    """Child to main, last words: a finite source is over, or the child was asked to stop.

    ``remark``, free of secrets, is what the user should know of a recording that is over.
    """

    progress: Progress
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """Child to main, last words: one sentence, free of secrets, on why it cannot go on.

    ``refused`` marks what will not mend by itself soon: a wrong password, no such stream.
    """

    sentence: str
    progress: Progress
    refused: bool = False
