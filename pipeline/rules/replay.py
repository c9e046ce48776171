"""Stored captions through rules: what would have fired, and what a change would alter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from pipeline.messages import Alert, AlertState, Caption
from pipeline.rules.engine import RuleEngine
from pipeline.rules.ruleset import RuleSet

__all__ = ["AlertDifference", "compare", "replay"]


def replay(captions: Iterable[Caption], rules: RuleSet) -> Iterator[Alert]:
    """Alert revisions that captions (each camera's in order of time) raise, and their ends.

    ``detected_at`` is the caption's capture time, so that a replay gives the same each time.
    """
    now: list[datetime] = []
    engine = RuleEngine(rules, clock=_last_of(now))
    for caption in captions:
        now[:] = [caption.stamp.captured_at]
        yield from engine.process(caption)
    yield from engine.flush()


def _last_of(times: list[datetime]) -> Callable[[], datetime]:
    return lambda: times[-1]


@dataclass(frozen=True, slots=True)
class AlertDifference:
    """Alerts that only one of two rule sets starts."""

    removed: tuple[Alert, ...]
    added: tuple[Alert, ...]


def compare(captions: Iterable[Caption], before: RuleSet, after: RuleSet) -> AlertDifference:
    """Tell which alerts a change of rules takes away and which it adds, by alert id."""
    stored = list(captions)
    old, new = _started(stored, before), _started(stored, after)
    return AlertDifference(
        removed=tuple(alert for key, alert in old.items() if key not in new),
        added=tuple(alert for key, alert in new.items() if key not in old),
    )


def _started(captions: list[Caption], rules: RuleSet) -> dict[str, Alert]:
    alerts = replay(captions, rules)
    return {alert.id: alert for alert in alerts if alert.state is AlertState.STARTED}
