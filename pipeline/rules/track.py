"""What is remembered of one rule on one camera; plain data that JSON can hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from pipeline.messages import Alert, FrameStamp

__all__ = ["CameraTrack", "Sighting", "Track"]


@dataclass(slots=True)
class Sighting:
    """One caption as a rule saw it; ``time_s`` is on the camera's own clock.

    ``known`` tells that its match was one of ``where_known`` with a confirmation of its own.
    """

    time_s: float
    captured_at: datetime
    matched: bool
    known: bool = False


@dataclass(slots=True)
class Track:
    """One rule on one camera. All ``*_s`` are seconds on the camera's own steady clock."""

    sightings: list[Sighting] = field(default_factory=list)
    run_started_s: float | None = None
    run_started_at: datetime | None = None
    last_match_s: float | None = None
    steps: str = ""
    """Which sequence ``step`` counts in."""
    step: int = 0
    step_s: float | None = None
    step_probability: float = 1.0
    watched_s: float | None = None
    step_started_at: datetime | None = None
    alert: Alert | None = None
    count: int = 0
    best_probability: float = 0.0
    published_s: float = 0.0
    cooldown_until_s: float | None = None
    snoozed_until_s: float | None = None
    started_s: list[float] = field(default_factory=list)
    held_back: dict[str, int] = field(default_factory=dict)
    usual: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Of each word some (time, evidence) of the last minutes, oldest first."""

    def shift(self, by_s: float) -> None:
        """Move every time by so many seconds: the camera's clock began anew."""
        for sighting in self.sightings:
            sighting.time_s += by_s
        self.started_s = [time_s + by_s for time_s in self.started_s]
        for word, samples in self.usual.items():
            self.usual[word] = [(time_s + by_s, value) for time_s, value in samples]
        self.step_s = _moved(self.step_s, by_s)
        self.watched_s = _moved(self.watched_s, by_s)
        self.published_s += by_s
        self.run_started_s = _moved(self.run_started_s, by_s)
        self.last_match_s = _moved(self.last_match_s, by_s)
        self.cooldown_until_s = _moved(self.cooldown_until_s, by_s)
        self.snoozed_until_s = _moved(self.snoozed_until_s, by_s)


@dataclass(slots=True)
class CameraTrack:
    """All rules on one camera, and the stamp of its last caption."""

    last: FrameStamp | None = None
    boot: str = ""
    tracks: dict[str, Track] = field(default_factory=dict)


def _moved(time_s: float | None, by_s: float) -> float | None:
    return None if time_s is None else time_s + by_s
