"""What people say about alerts, as far as rules go by it: snoozes, and who still waits for a yes.

Snoozes and waits are counted on the monotonic clock; the wall clock carries them over a restart.
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from pydantic import TypeAdapter

from pipeline.messages import Alert, AlertState, FrameStamp, Review, ReviewState
from pipeline.rules.engine import RuleEngine
from pipeline.rules.ruleset import RuleSet

__all__ = ["ReviewBook"]


@dataclass(slots=True)
class _Snooze:
    """Rules on cameras (both globs) that start nothing until then."""

    camera: str
    rule: str
    until: datetime
    until_s: float = 0.0
    """The same on the monotonic clock of this process."""


@dataclass(slots=True)
class _Waiting:
    """An alert that nobody has acknowledged yet, as it last was."""

    alert: Alert
    severity: str
    due: datetime
    due_s: float = 0.0


@dataclass(slots=True)
class _Book:
    snoozes: list[_Snooze] = field(default_factory=list)
    waiting: dict[str, _Waiting] = field(default_factory=dict)
    position: str | None = None


_CODEC = TypeAdapter(_Book)


class ReviewBook:
    """Takes in reviews and alerts; tells the engine of snoozes and escalates what nobody answers.

    Args:
        rules: Whose ``escalate`` counts.
        state: A snapshot to go on from.
        wall: Aware UTC; injected in tests, as is ``monotonic_s``.

    """

    def __init__(
        self,
        rules: RuleSet,
        state: dict[str, Any] | None = None,
        wall: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._told: dict[str, dict[str, float]] = {}
        """Until when (monotonic) the engine holds back each rule, by camera and rule."""
        self._up_to_date: set[str] = set()
        """Cameras to which nothing is to be told before the next change."""
        self.replace_rules(rules)
        self._wall = wall
        self._monotonic_s = monotonic_s
        self._book = _Book() if state is None else _CODEC.validate_python(state)
        for snooze in self._book.snoozes:
            snooze.until_s = self._steady(snooze.until)
        for waiting in self._book.waiting.values():
            waiting.due_s = self._steady(waiting.due)

    @property
    def position(self) -> str | None:
        """Stream id of the last review taken in, or None."""
        return self._book.position

    def replace_rules(self, rules: RuleSet) -> None:
        """Go on with other rules; alerts that wait keep the time that theirs allowed."""
        self._told.clear()  # with a rule that goes the engine forgets its snooze
        self._rules = {rule.spec.name: rule.spec for rule in rules.rules}
        self._up_to_date.clear()

    def snapshot(self) -> dict[str, Any]:
        """Give all that must survive a restart, as JSON-able data."""
        state: dict[str, Any] = _CODEC.dump_python(self._book, mode="json")
        return state

    def take(self, review: Review, position: str | None = None) -> None:
        """Take in what somebody did; ``position`` is its stream id."""
        self._book.position = position or self._book.position
        self._book.waiting.pop(review.alert_id, None)
        if review.state is not ReviewState.SNOOZED or review.until is None:
            return
        subject = (review.camera, review.rule)
        self._book.snoozes = [s for s in self._book.snoozes if (s.camera, s.rule) != subject]
        until_s = self._steady(review.until)
        self._book.snoozes.append(_Snooze(*subject, review.until, until_s))
        self._up_to_date.clear()

    def tell_snoozes(self, engine: RuleEngine, stamp: FrameStamp) -> None:
        """Tell the engine what is snoozed on the camera of the caption that comes next.

        Of several snoozes of a rule the longest counts. What has not changed is not told again:
        it is counted on the camera's own clock.
        """
        now_s, camera = self._monotonic_s(), stamp.camera
        self._book.snoozes = [s for s in self._book.snoozes if s.until_s > now_s]
        if camera in self._up_to_date:
            return
        wanted: dict[str, float] = {}
        for snooze in self._book.snoozes:
            if fnmatch.fnmatchcase(camera, snooze.camera):
                for rule in fnmatch.filter(self._rules, snooze.rule):
                    wanted[rule] = max(wanted.get(rule, now_s), snooze.until_s)
        # Of what a run before has told nothing is known: all of it is told anew.
        told = self._told.get(camera)
        for rule in self._rules:
            until_s = wanted.get(rule, now_s)
            if told is None or until_s != max(told.get(rule, now_s), now_s):
                engine.snooze(camera, rule, until_s - now_s, stamp)
        self._told[camera] = wanted
        self._up_to_date.add(camera)

    def watch(self, alerts: Iterable[Alert]) -> None:
        """Remember those alerts of live cameras that somebody has to acknowledge."""
        for alert in alerts:
            if alert.id in self._book.waiting:
                self._book.waiting[alert.id].alert = alert
            elif alert.state is AlertState.STARTED and alert.stamp.position_s is None:
                self._await(alert)

    def due(self) -> list[Alert]:
        """Alerts that nobody has acknowledged in time, each once, at their raised severity."""
        now_s = self._monotonic_s()
        late = [w for w in self._book.waiting.values() if w.due_s <= now_s]
        for waiting in late:
            del self._book.waiting[waiting.alert.id]
        return [
            replace(
                waiting.alert,
                state=AlertState.ESCALATED,
                severity=waiting.severity,
                detected_at=self._wall(),
            )
            for waiting in late
        ]

    def _await(self, alert: Alert) -> None:
        spec = self._rules.get(alert.rule)
        if spec is None or spec.escalate is None:
            return
        due = self._wall() + timedelta(seconds=spec.escalate.after_s)
        due_s = self._monotonic_s() + spec.escalate.after_s
        self._book.waiting[alert.id] = _Waiting(alert, spec.escalate.severity, due, due_s)

    def _steady(self, moment: datetime) -> float:
        """A moment of the wall clock on this process's monotonic clock."""
        return self._monotonic_s() + (moment - self._wall()).total_seconds()
