"""The rule stage as a worker runs it: captions through the engine, events into the store."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.alerts.clips import ClipRecorder
from pipeline.alerts.codec import encode_alert
from pipeline.alerts.snapshot_taker import SnapshotTaker
from pipeline.captioner import CaptionedFrame
from pipeline.messages import Alert, AlertState, Caption, FrameRef, Review, SourceEnd
from pipeline.rules.engine import RuleEngine
from pipeline.rules.reviews import ReviewBook
from pipeline.rules.ruleset import RuleSet
from pipeline.store import Backlog, Store, StoreError, Work

__all__ = ["STATE_PREFIX", "Judged", "RuleStage", "RuleStagePorts"]

log = logging.getLogger(__name__)

STATE_PREFIX = "rules:"
"""Begins the names of the rules' rows in the store; a camera's name ends them."""
_LAST_TRIES, _TRY_EVERY_S = 10, 0.5
_LOOK_EVERY_S = 1.0
"""So often cameras that fell silent are looked for while others go on."""
_LATE_S = 15.0
"""A camera's caption may come so much later than another's of the same moment."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A caption, or alert revisions: those that a caption caused come after it.

    ``pictures`` are the JPEG snapshots of alerts that start, by alert id. ``ended`` says that
    nothing more comes of a recording; it comes by itself.
    """

    caption: Caption | None
    alerts: tuple[Alert, ...]
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    ended: SourceEnd | None = None


@dataclass(frozen=True, slots=True)
class RuleStagePorts:
    """What the stage needs of its surroundings.

    ``preview`` gives a frame's picture (H, W, 3) RGB, ``release`` frees its slot, ``wake`` tells
    the publisher that there is something new, ``snapshot_key`` names an alert's picture, and
    ``reviews`` gives what people have said since it was asked last, with its stream id;
    ``snapshots`` makes the pictures, and ``clips``, where there is one, the videos.
    """

    preview: Callable[[FrameRef], NDArray[np.uint8]]
    release: Callable[[FrameRef], None]
    wake: Callable[[], None]
    snapshot_key: Callable[[Alert], str]
    reviews: Callable[[], Sequence[tuple[str, Review]]] = tuple
    snapshots: SnapshotTaker = field(default_factory=SnapshotTaker)
    clips: ClipRecorder | None = None


class RuleStage:
    """Stage: :class:`CaptionedFrame` in, :class:`Judged` out.

    At a recording's end its open alerts end too.
    Events are durable in the store, together with the engine's state and the caption they come
    from, before anything downstream sees them. What the store refuses (a full disk) is held and
    written later; captions go on meanwhile.
    """

    name = "rules"

    def __init__(
        self, engine: RuleEngine, book: ReviewBook, store: Store, ports: RuleStagePorts
    ) -> None:
        self._engine = engine
        self._book = book
        self._backlog: Backlog[Judged] = Backlog(store)
        self._ports = ports
        self.started: Counter[str] = Counter()
        """Alerts started, by rule."""
        self._new_rules: tuple[RuleSet, Mapping[str, Sequence[str]]] | None = None
        self._ended: list[SourceEnd] = []
        self._looked_s = 0.0

    def open(self) -> None:
        """Nothing to acquire."""

    def process(self, items: Sequence[CaptionedFrame | SourceEnd]) -> Iterable[Judged]:
        """Judge each caption; now and then, end the alerts of cameras that fell silent."""
        yield from self._take_new_rules()
        for position, review in self._ports.reviews():
            self._book.take(review, position)
        for item in items:
            yield from self._end(item) if isinstance(item, SourceEnd) else self._judge(item)
        yield from self._end_silent(items)
        yield from self._told_ends()
        if late := self._book.due():
            yield from self._record(None, late, {})

    def flush(self) -> Iterable[Judged]:
        """End what is open: the sources are over.

        Raises:
            StoreError: The store still takes nothing; what it refused has gone downstream.

        """
        alerts = self._engine.flush()
        if alerts or self._backlog:
            yield from self._record(None, alerts, {})
        for _ in range(_LAST_TRIES):
            if not self._backlog:
                break
            time.sleep(_TRY_EVERY_S)
            yield from self._save(None)
        yield from self._told_ends()
        if lost := self._backlog.give_up():
            yield from lost
            raise StoreError(f"{self._backlog.error}; {len(lost)} alert revisions are not stored")

    def close(self) -> None:
        """Nothing to release."""

    def replace_rules(self, rules: RuleSet, groups: Mapping[str, Sequence[str]]) -> None:
        """Judge by other rules from the next call on; any thread may call."""
        self._new_rules = (rules, groups)

    def _take_new_rules(self) -> Iterable[Judged]:
        if self._new_rules is None:
            return
        (rules, groups), self._new_rules = self._new_rules, None
        self._book.replace_rules(rules)
        alerts = self._engine.replace_rules(rules, groups)
        if alerts:
            yield from self._record(None, alerts, {})

    @property
    def store_problem(self) -> str | None:
        """Why alerts wait in memory for the store, or None; any thread may ask."""
        return self._backlog.error

    def suppressed(self) -> dict[tuple[str, str], int]:
        """Matches that started no alert, by (rule, reason); any thread may ask."""
        return self._engine.suppressed()

    def _end(self, source: SourceEnd) -> Iterable[Judged]:
        self._ended.append(source)
        alerts = self._engine.flush(source.camera)
        self._engine.forget(source.camera)
        return self._record(None, alerts, {}) if alerts else ()

    def _end_silent(self, items: Sequence[CaptionedFrame | SourceEnd]) -> Iterable[Judged]:
        """End the alerts of live cameras that have given nothing for too long.

        Now is a little before the newest frame was grabbed, for captions come late, and those of
        one camera later than another's; without captions it is what the clock says.
        """
        grabbed = [
            item.caption.stamp.captured_monotonic_ns / 1e9
            for item in items
            if not isinstance(item, SourceEnd)
        ]
        if items:
            now_s = max(grabbed, default=0.0) - _LATE_S
            if now_s - self._looked_s < _LOOK_EVERY_S:
                return
        else:
            now_s = time.monotonic_ns() / 1e9
        self._looked_s = now_s
        alerts = self._engine.tick(now_s)
        if alerts or (self._backlog and not items):
            yield from self._record(None, alerts, {})

    def _told_ends(self) -> Iterable[Judged]:
        """Recordings' ends go on behind their last alerts, also those that wait for the store."""
        if not self._backlog:
            ended, self._ended = self._ended, []
            yield from (Judged(None, (), ended=source) for source in ended)

    def _judge(self, item: CaptionedFrame) -> Iterable[Judged]:
        try:
            self._book.tell_snoozes(self._engine, item.caption.stamp)
            alerts = self._engine.process(item.caption)
            self._begin_clips(alerts)
            pictures = {
                alert.id: self._ports.snapshots.take(alert, self._ports.preview(item.ref))
                for alert in alerts
                if alert.state is AlertState.STARTED
            }
        finally:
            self._ports.release(item.ref)
        return self._record(item.caption, alerts, pictures)

    def _record(
        self, caption: Caption | None, alerts: Sequence[Alert], pictures: Mapping[str, bytes | None]
    ) -> Iterable[Judged]:
        without = {key for key, picture in pictures.items() if picture is None}
        named = tuple(self._named(alert, pictured=alert.id not in without) for alert in alerts)
        events = tuple((encode_alert(alert), pictures.get(alert.id)) for alert in named)
        self._book.watch(named)
        self.started.update(a.rule for a in alerts if a.state is AlertState.STARTED)
        # Apart, so that the caption goes on when only the alerts have to wait for the store.
        seen = () if caption is None else (Work(Judged(caption, ()), captions=(caption,)),)
        taken = {key: picture for key, picture in pictures.items() if picture is not None}
        raised = (Work(Judged(None, named, taken), events),) if named else ()
        yield from self._save(caption, *seen, *raised)

    def _named(self, alert: Alert, pictured: bool) -> Alert:
        """Add where the alert's picture and video are."""
        snapshot = self._ports.snapshot_key(alert) if pictured else None
        clips = self._ports.clips
        return replace(
            alert, snapshot=snapshot, clip=None if clips is None else str(clips.path(alert))
        )

    def _begin_clips(self, alerts: Sequence[Alert]) -> None:
        if self._ports.clips is None:
            return
        for alert in alerts:
            if alert.state is AlertState.STARTED:
                self._ports.clips.begin(alert)

    def _save(self, caption: Caption | None, *new: Work[Judged]) -> Iterable[Judged]:
        """Write work, and what is remembered of the caption's camera; without one, of all."""
        live = self._engine.live_snapshot(None if caption is None else caption.stamp.camera)
        state = {STATE_PREFIX + name: data for name, data in live.items()}
        durable = self._backlog.save({**state, "reviews": self._book.snapshot()}, *new)
        if any(numbers for _, numbers in durable):
            self._ports.wake()
        for judged, numbers in durable:
            numbered = zip(judged.alerts, numbers, strict=True)
            alerts = tuple(replace(alert, seq=seq) for alert, seq in numbered)
            yield Judged(judged.caption, alerts, judged.pictures)
