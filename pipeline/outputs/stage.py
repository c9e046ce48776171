"""The last stage: what was judged goes to files, the screen and whoever listens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from pipeline.messages import Alert, Caption
from pipeline.rules.stage import Judged

__all__ = ["OutputStage", "PictureKeeper", "Sink"]

PictureKeeper = Callable[[Alert, bytes], None]
"""Takes the JPEG snapshot of an alert, before the alert itself."""


class Sink(Protocol):
    """Anything that takes captions and alerts: an output set, a terminal view, a JSON writer."""

    def caption(self, caption: Caption) -> None:
        """Take one caption."""

    def alert(self, alert: Alert) -> None:
        """Take one alert revision."""


class OutputStage:
    """Stage: :class:`Judged` in, nothing out."""

    name = "outputs"

    def __init__(
        self,
        sinks: Sequence[Sink],
        on_source_end: Callable[[str], None] = lambda camera: None,
        keep_picture: PictureKeeper = lambda alert, jpeg: None,
    ) -> None:
        self._sinks = tuple(sinks)
        self._on_source_end = on_source_end
        self._keep_picture = keep_picture

    def open(self) -> None:
        """Nothing to acquire."""

    def process(self, items: Sequence[Judged]) -> Iterable[None]:
        """Hand everything to every sink: a caption before the alerts it caused, the end last."""
        for item in items:
            for alert in item.alerts:
                if alert.id in item.pictures:
                    self._keep_picture(alert, item.pictures[alert.id])
            for sink in self._sinks:
                if item.caption is not None:
                    sink.caption(item.caption)
                for alert in item.alerts:
                    sink.alert(alert)
            if item.ended is not None:
                self._on_source_end(item.ended.camera)
        return ()

    def flush(self) -> Iterable[None]:
        """Nothing is held back."""
        return ()

    def close(self) -> None:
        """Nothing to release: the sinks are their owners' to close."""
