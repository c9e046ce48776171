"""The rule stage as a worker runs it: captions through the engine, events into the store."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.alerts.codec import encode_alert
from pipeline.alerts.snapshot import encode_snapshot
from pipeline.captioner import CaptionedFrame
from pipeline.messages import Alert, AlertState, Caption, FrameRef
from pipeline.rules.engine import RuleEngine
from pipeline.store import Store

__all__ = ["Judged", "RuleStage", "RuleStagePorts"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Judged:
    """A caption and the alert revisions it caused; no caption when only time passed."""

    caption: Caption | None
    alerts: tuple[Alert, ...]


@dataclass(frozen=True, slots=True)
class RuleStagePorts:
    """What the stage needs of its surroundings.

    ``preview`` gives a frame's picture (H, W, 3) RGB, ``release`` frees its slot, ``wake`` tells
    the publisher that there is something new, ``snapshot_key`` names an alert's picture.
    """

    preview: Callable[[FrameRef], NDArray[np.uint8]]
    release: Callable[[FrameRef], None]
    wake: Callable[[], None]
    snapshot_key: Callable[[Alert], str]


class RuleStage:
    """Stage: :class:`CaptionedFrame` in, :class:`Judged` out.

    Events are durable in the store, together with the engine's state and the caption they come
    from, before anything downstream sees them.
    """

    name = "rules"

    def __init__(self, engine: RuleEngine, store: Store, ports: RuleStagePorts) -> None:
        self._engine = engine
        self._store = store
        self._ports = ports
        self.started: Counter[str] = Counter()
        """Alerts started, by rule."""

    def open(self) -> None:
        """Nothing to acquire."""

    def process(self, items: Sequence[CaptionedFrame]) -> Iterable[Judged]:
        """Judge each caption; with no items, end the alerts of cameras that fell silent."""
        if not items:
            alerts = self._engine.tick(time.monotonic_ns() / 1e9)
            if alerts:
                yield self._record(None, alerts, {})
        for item in items:
            yield self._judge(item)

    def flush(self) -> Iterable[Judged]:
        """End what is open: the sources are over."""
        alerts = self._engine.flush()
        if alerts:
            yield self._record(None, alerts, {})

    def close(self) -> None:
        """Nothing to release."""

    def _judge(self, item: CaptionedFrame) -> Judged:
        try:
            alerts = self._engine.process(item.caption)
            pictures = {
                alert.id: encode_snapshot(self._ports.preview(item.ref), alert.region)
                for alert in alerts
                if alert.state is AlertState.STARTED
            }
        finally:
            self._ports.release(item.ref)
        return self._record(item.caption, alerts, pictures)

    def _record(
        self, caption: Caption | None, alerts: Sequence[Alert], pictures: dict[str, bytes]
    ) -> Judged:
        events: list[tuple[dict[str, Any], bytes | None]] = [
            (encode_alert(alert, self._ports.snapshot_key(alert)), pictures.get(alert.id))
            for alert in alerts
        ]
        captions = () if caption is None else (caption,)
        self._store.record(events, {"rules": self._engine.snapshot()}, captions)
        if alerts:
            self._ports.wake()
        self.started.update(a.rule for a in alerts if a.state is AlertState.STARTED)
        return Judged(caption, tuple(alerts))
