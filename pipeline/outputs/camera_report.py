"""What a run's report tells of one camera: scenes, alerts, pictures, and each hour summed up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pipeline.outputs.cues import Cue
from pipeline.outputs.scenes import Hour, Scene, clock, day, hours_told, scenes

__all__ = ["MOST_PICTURES", "CameraReport", "counted", "together"]

MOST_PICTURES = 150
"""Thumbnails a camera; with more scenes only some of them get one, evenly spaced."""


@dataclass(frozen=True, slots=True)
class CameraReport:
    """What the report tells of one camera.

    ``started`` is the aware time of media time zero, if known; ``pictures`` are ``data:`` URLs by
    scene start in ms, ``snapshots`` the JPEG pictures of alerts by alert id, and
    ``sheets`` the file names of their contact sheets.
    """

    camera: str
    scenes: Sequence[Scene]
    alerts: Sequence[Cue]
    started: datetime | None = None
    recording: Path | None = None
    pictures: Mapping[int, str] = field(default_factory=dict)
    snapshots: Mapping[str, bytes] = field(default_factory=dict)
    sheets: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_cues(
        cls, camera: str, cues: Sequence[Cue], started: datetime | None, recording: Path | None
    ) -> CameraReport:
        """Sort cues into scenes and alerts."""
        captions = [cue for cue in cues if cue.severity is None]
        alerts = [cue for cue in cues if cue.severity is not None]
        return cls(camera, scenes(captions), alerts, started, recording)

    def picture_times(self) -> list[int]:
        """Return the starts in ms of the scenes that get a thumbnail."""
        step = max(1, -(-len(self.scenes) // MOST_PICTURES))
        return [scene.start_ms for scene in self.scenes[::step]]

    def span(self, entry: Scene | Cue, dash: str = "-") -> str:
        """Write from when to when something lasts."""
        return dash.join(clock(at, self.started) for at in (entry.start_ms, entry.end_ms))

    def entries(self) -> list[Scene | Cue]:
        """Return scenes and alerts in the order of their beginnings, a scene before its alert."""
        found: list[Scene | Cue] = [*self.scenes, *self.alerts]
        return sorted(found, key=lambda entry: entry.start_ms)

    def told_hours(self) -> list[Hour]:
        """Sum up each hour of this camera."""
        return hours_told(self.scenes, self.alerts, self.started)

    def told(self) -> str:
        """Say in a line from when to when something was seen, and how much."""
        if not (self.scenes or self.alerts):
            return "no captions"
        start_ms = self.entries()[0].start_ms
        first, last = (day(at, self.started) for at in (start_ms, self.end_ms))
        begun = f"{first} {clock(start_ms, self.started)}".strip()
        ended = f"{'' if first == last else last} {clock(self.end_ms, self.started)}".strip()
        severities = Counter(cue.severity or "" for cue in self.alerts)
        quiet = "" if self.alerts else ", no alerts"
        return f"{begun} to {ended}: {counted(len(self.scenes), severities)}{quiet}"

    @property
    def end_ms(self) -> int:
        """Where the last scene or alert ends."""
        ends = [scene.end_ms for scene in self.scenes] + [cue.end_ms for cue in self.alerts]
        return max(ends, default=0)


def together(cameras: Sequence[CameraReport]) -> list[tuple[Hour, CameraReport]]:
    """Return the hours of all cameras, in order."""
    each = [(hour, camera) for camera in cameras for hour in camera.told_hours()]
    return sorted(each, key=lambda pair: (pair[0].day, pair[0].hour))


def counted(scenes_seen: int, alerts: Mapping[str, int]) -> str:
    """Say how many scenes, and how many alerts of which severity."""
    parts = [_number(scenes_seen, "scene")] if scenes_seen else []
    if alerts:
        each = ", ".join(f"{count} {severity}" for severity, count in alerts.items())
        parts.append(f"{_number(sum(alerts.values()), 'alert')} ({each})")
    return ", ".join(parts)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
