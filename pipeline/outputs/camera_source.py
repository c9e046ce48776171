"""What the output files of a camera are told of it, and how events become lines of theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from typing import Any, Protocol

from pipeline.messages import Alert, CameraEvent, Caption
from pipeline.outputs.lines import alert_line, camera_event_line
from pipeline.pictures import Polygons

__all__ = ["CameraSource", "Encoders", "Output"]


class Output(Protocol):
    """Something that takes what a run says about a camera. Called from one thread at a time."""

    def caption(self, caption: Caption) -> None:
        """Take a caption, in the order of its camera's frames."""

    def alert(self, alert: Alert) -> None:
        """Take one revision of an alert."""

    def camera_event(self, event: CameraEvent) -> None:
        """Take a camera's coming or going."""

    def close(self, complete: bool) -> list[Path]:
        """Write what is still to be written; the files made. Not ``complete``: cut short."""


@dataclass(frozen=True, slots=True)
class CameraSource:
    """One camera for the outputs.

    ``file`` is the recording it reads, None for live sources. ``started_monotonic_ns`` is the
    run's start, from which a live camera's subtitles count; unset, its first caption's.
    ``masks`` are black in the report's pictures and the video too; without ``pictures`` there is
    no video and no picture but the alerts' own. ``zone`` is that of the report's clock times; None:
    this machine's.
    """

    name: str
    file: Path | None = None
    started_monotonic_ns: int | None = None
    masks: Polygons = ()
    pictures: bool = True
    zone: tzinfo | None = None


@dataclass(frozen=True, slots=True)
class Encoders:
    """How events become JSON: the alerts' codec, handed in so that this room knows none of it."""

    alert: Callable[[Alert], Mapping[str, Any]] = alert_line
    camera_event: Callable[[CameraEvent], Mapping[str, Any]] = camera_event_line
