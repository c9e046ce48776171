"""What flows between the stages: small, frozen, slotted values.

Every type here is picklable and none holds pixels: a :class:`FrameRef` says where they lie, so
nothing can pin an image in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Alert",
    "AlertState",
    "Alternative",
    "CameraEvent",
    "CameraState",
    "Caption",
    "Concept",
    "Evidence",
    "FrameRef",
    "FrameStamp",
    "Region",
    "Review",
    "ReviewState",
    "SourceEnd",
    "StageHealth",
    "Word",
]


@dataclass(frozen=True, slots=True)
class FrameStamp:
    """The identity of a frame, made once, at the grab, and kept as far as the alert.

    ``sequence`` counts the frames grabbed from this camera, from 0. ``captured_at`` is aware
    UTC: for a live camera the time of receipt, for a file the recording's start plus the media
    time. ``captured_monotonic_ns`` never steps back, whatever the wall clock does.
    ``position_s`` is media time in seconds, or None for a source that has none.
    """

    camera: str
    sequence: int
    captured_at: datetime
    captured_monotonic_ns: int
    position_s: float | None = None

    def __post_init__(self) -> None:
        if self.captured_at.tzinfo is None:
            raise ValueError(f"{self.camera}: captured_at must be an aware datetime")

    @property
    def time_s(self) -> float:
        """Seconds on this source's own steady clock: media time, else monotonic time.

        Rules and sampling measure durations on it, so that a step of the wall clock changes
        nothing and a replayed file gives the same result at any speed.
        """
        if self.position_s is not None:
            return self.position_s
        return self.captured_monotonic_ns / 1e9


@dataclass(frozen=True, slots=True)
class FrameRef:
    """Where a frame lies: slot ``slot`` of its camera's shared memory.

    ``preview_width`` and ``preview_height`` (pixels) tell the size of the picture kept beside
    the encoder's square for snapshots. ``difference`` is the mean absolute grey difference from
    the frame looked at before, 0..1, measured once in the grabber (None for the first frame).
    ``segment`` names the shared memory: a camera that was changed while running has a new one.
    ``scuffle`` is the log-odds, by how things move just then, that people fight
    (:mod:`pipeline.scuffle`); None where no picture from shortly before could be had.
    """

    stamp: FrameStamp
    slot: int
    preview_width: int
    preview_height: int
    difference: float | None = None
    segment: str = ""
    scuffle: float | None = None


@dataclass(frozen=True, slots=True)
class SourceEnd:
    """A recording has been read to its end; goes through every stage behind its last frame."""

    camera: str


@dataclass(frozen=True, slots=True)
class Region:
    """A box in the picture; all four numbers are fractions of its width or height, 0..1."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a caption, its probability given the words before it, and where the model looked.

    ``attention`` is (T, rows, columns) float32 over the window's frames (oldest first), summing
    to at most 1, or None for a model without attention.
    """

    text: str
    probability: float
    attention: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another finished beam: its text and its log probability in nats."""

    text: str
    log_probability: float


@dataclass(frozen=True, slots=True)
class Concept:
    """What the visual-concept detector says of one word: its probability, and where it shows."""

    probability: float
    region: Region | None = None


@dataclass(frozen=True, slots=True)
class Caption:
    """What one window of frames shows, in words; ``stamp`` is that of the window's last frame.

    ``log_probability`` is the sum over the words (and the end token) in nats. ``concepts``
    are the words that the rules ask the visual-concept detector about, where the model has one,
    and ``scores`` the rules' probe sentences: log P(sentence | window) - log P(sentence), in nats.
    ``model`` is the id of the checkpoint. ``finished`` is False for the best beginning of a caption
    that found no end.
    """

    stamp: FrameStamp
    text: str
    log_probability: float
    words: tuple[Word, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    model: str = ""
    concepts: Mapping[str, Concept] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a rule counted a caption: the keyword, what matched it, and how sure the model was.

    ``matched`` is the text as it stands in the caption, ``span`` its (start, end) character
    offsets there (end exclusive). ``probability`` is the model's for the matched words, 0..1.
    ``beams`` is the share of beam probability mass whose text matches too, or None if unknown.
    """

    keyword: str
    matched: str
    span: tuple[int, int]
    probability: float
    beams: float | None = None
    region: Region | None = None


class AlertState(str, Enum):
    """The part of an alert's life that a rule decides; people's review states follow it."""

    STARTED = "started"
    UPDATED = "updated"
    ENDED = "ended"
    ESCALATED = "escalated"
    """Nobody has acknowledged it in the time its rule allows."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One revision of an alert, as the rule stage hands it to the outbox.

    ``id`` is a function of camera, rule and ``first_seen`` alone, and ``revision`` counts from 1,
    so a replay of the same frames makes the same events. ``stamp`` is that of the caption which
    caused this revision. ``detected_at`` is when the rule stage decided, aware UTC. ``snapshot``
    is the Redis key of its picture, ``clip`` the file of its video, which comes seconds later;
    ``seq`` the store's number, None until it is durable there.
    """

    id: str
    revision: int
    state: AlertState
    rule: str
    severity: str
    tags: tuple[str, ...]
    stamp: FrameStamp
    first_seen: datetime
    last_seen: datetime
    detected_at: datetime
    count: int
    caption: str
    probability: float
    keywords: tuple[Evidence, ...]
    region: Region | None = None
    evidence: Mapping[str, float] = field(default_factory=dict)
    alternatives: tuple[Alternative, ...] = ()
    model: str = ""
    rules_version: str = ""
    snapshot: str | None = None
    clip: str | None = None
    seq: int | None = None


class ReviewState(str, Enum):
    """What people have done about an alert."""

    ACKNOWLEDGED = "acknowledged"
    SNOOZED = "snoozed"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Review:
    """One change of an alert's review; ``revision`` counts them from 1. Times are aware UTC.

    A snooze has ``until``. One of cameras and rules in general names no alert of theirs:
    ``alert_id`` is its own, and ``camera`` and ``rule`` may be globs.
    """

    alert_id: str
    revision: int
    state: ReviewState
    camera: str
    rule: str
    time: datetime
    by: str
    note: str = ""
    until: datetime | None = None


class CameraState(str, Enum):
    """What became of a camera; the values end the event types ``watchword.camera.*``."""

    OFFLINE = "offline"
    ONLINE = "online"
    BLIND = "blind"
    SIGHTED = "sighted"


@dataclass(frozen=True, slots=True)
class CameraEvent:
    """A camera came or went. ``reason`` is free of secrets; times are aware UTC.

    ``seq`` is the store's number, None until the event is durable there.
    """

    camera: str
    state: CameraState
    reason: str
    since: datetime
    last_frame_at: datetime | None
    reconnects: int
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class StageHealth:
    """A stage as the supervisor sees it: alive is not enough, progress counts."""

    stage: str
    alive: bool
    processed: int
    queued: int
    last_progress_monotonic_ns: int
    error: str | None = None
