"""Stored captions through rules: what would have fired, and what a change would alter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.messages import Alert, AlertState, Caption
from pipeline.rules.engine import RuleEngine
from pipeline.rules.ruleset import RuleSet

__all__ = ["AlertDifference", "compare", "replay"]


Groups = Mapping[str, Sequence[str]]
"""Camera groups of a configuration: group name to camera names or globs."""


def replay(
    captions: Iterable[Caption], rules: RuleSet, groups: Groups | None = None
) -> Iterator[Alert]:
    """Alert revisions that captions (each camera's in order of time) raise, and their ends.

    ``detected_at`` is the caption's capture time, so that a replay gives the same each time.
    """
    now: list[datetime] = []
    engine = RuleEngine(rules, clock=_last_of(now), groups=groups)
    for caption in captions:
        now[:] = [caption.stamp.captured_at]
        yield from engine.process(caption)
    yield from engine.flush()


def _last_of(times: list[datetime]) -> Callable[[], datetime]:
    return lambda: times[-1]


@dataclass(frozen=True, slots=True)
class AlertDifference:
    """What a change of rules does to alerts; each is given as it started.

    ``moved`` holds alerts of the new rules that start at another time than the old one they
    overlap with (same camera and rule): no more and no fewer for whoever watches, but other ids.
    """

    removed: tuple[Alert, ...]
    added: tuple[Alert, ...]
    moved: tuple[Alert, ...]
    kept: int


@dataclass(frozen=True, slots=True)
class _Span:
    """An alert from its start to the last time that something matched."""

    started: Alert
    last_seen: datetime

    def meets(self, other: _Span) -> bool:
        mine, theirs = self.started, other.started
        same = (mine.rule, mine.stamp.camera) == (theirs.rule, theirs.stamp.camera)
        return same and mine.first_seen <= other.last_seen and theirs.first_seen <= self.last_seen


def compare(
    captions: Iterable[Caption], before: RuleSet, after: RuleSet, groups: Groups | None = None
) -> AlertDifference:
    """Tell which alerts a change of rules takes away, adds and moves in time."""
    stored = list(captions)
    old, new = _spans(stored, before, groups), _spans(stored, after, groups)
    ids = {span.started.id for span in old}
    changed = [span for span in new if span.started.id not in ids]
    return AlertDifference(
        removed=_alone(old, new),
        added=_alone(changed, old),
        moved=tuple(s.started for s in changed if any(s.meets(other) for other in old)),
        kept=len(new) - len(changed),
    )


def _alone(spans: Sequence[_Span], others: Sequence[_Span]) -> tuple[Alert, ...]:
    return tuple(s.started for s in spans if not any(s.meets(other) for other in others))


def _spans(captions: Sequence[Caption], rules: RuleSet, groups: Groups | None) -> list[_Span]:
    started: dict[str, Alert] = {}
    last_seen: dict[str, datetime] = {}
    for alert in replay(captions, rules, groups):
        if alert.state is AlertState.STARTED:
            started[alert.id] = alert
        last_seen[alert.id] = alert.last_seen
    return [_Span(alert, last_seen[key]) for key, alert in started.items()]
