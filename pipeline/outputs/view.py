"""What shows a run while it goes: a terminal, JSON lines, or a program's own callbacks."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pipeline.messages import CameraEvent
from pipeline.outputs.stage import Sink

__all__ = ["Display", "View"]


class View(Sink, Protocol):
    """A sink that is told of cameras and progress too. Methods are called from several threads."""

    def camera_event(self, event: CameraEvent) -> None:
        """Show that a camera came or went."""

    def progress(self, camera: str, position_s: float, duration_s: float | None = None) -> None:
        """Show how far a recording has been read, seconds of media time."""

    def ended(self, camera: str) -> None:
        """Show that a recording's files are written."""

    def message(self, text: str) -> None:
        """Show a sentence about the run itself."""


@runtime_checkable
class Display(View, Protocol):
    """A view on what somebody reads and may stop reading: a terminal, a pipe.

    It is told from others by :meth:`give_up`; :mod:`pipeline.outputs.screen` calls it.
    """

    def give_up(self) -> bool:
        """Nobody reads at the end: print nothing more, or return False to wait for the reader."""
