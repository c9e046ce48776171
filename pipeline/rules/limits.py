"""Limits over all live cameras together: how many alerts may start, and what was held back.

Alerts of recordings neither count nor are held back: nobody is called for them, and what a
recording raises must not hang on what else is read at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from pipeline.messages import FrameStamp
from pipeline.rules.ruleset import RuleSet
from pipeline.rules.schema import RateLimit, RuleSpec

__all__ = ["Limits"]

_OF_RULE, _OF_ALL = "rate_limit_all_cameras", "rate_limit_all_rules"


@dataclass(slots=True)
class _Memory:
    """Starts as (monotonic s, rule), oldest first; ``held_back`` is by rule, or "" for all."""

    boot: str = ""
    started: list[tuple[float, str]] = field(default_factory=list)
    held_back: dict[str, int] = field(default_factory=dict)


_CODEC = TypeAdapter(_Memory)


class Limits:
    """The limits of a rules file that count over cameras.

    Args:
        rules: Whose limits hold.
        boot: Names this boot of the machine; what another one has counted is forgotten, since its
            monotonic times mean nothing here.

    """

    def __init__(self, rules: RuleSet, boot: str) -> None:
        self._boot = boot
        self._memory = _Memory(boot)
        self.replace_rules(rules)

    def replace_rules(self, rules: RuleSet) -> None:
        """Go on with the limits of other rules."""
        self._of_all = rules.rate_limit
        limits = [rule.spec.rate_limit_all_cameras for rule in rules.rules]
        windows = [limit.within_s for limit in (*limits, self._of_all) if limit is not None]
        self._longest_s = max(windows, default=0.0)

    def refusal(self, rule: RuleSpec, stamp: FrameStamp) -> str | None:
        """Say which limit lets no alert of a rule start now, or None; refusals are counted."""
        if not self._longest_s or stamp.position_s is not None:
            return None
        starts = [start for start in self._memory.started if self._counts(start, stamp)]
        self._memory.started = starts
        mine = [at_s for at_s, name in starts if name == rule.name]
        if _reached(rule.rate_limit_all_cameras, mine, stamp.time_s):
            return self._refuse(rule.name, _OF_RULE)
        if rule.severity != "critical" and _reached(
            self._of_all, [at_s for at_s, _ in starts], stamp.time_s
        ):
            return self._refuse("", _OF_ALL)
        return None

    def started(self, rule: RuleSpec, stamp: FrameStamp) -> dict[str, float]:
        """Count an alert that starts; give how many captions were held back before it, by limit."""
        if not self._longest_s or stamp.position_s is not None:
            return {}
        self._memory.started.append((stamp.time_s, rule.name))
        held = {_OF_RULE: self._memory.held_back.pop(rule.name, 0)}
        held[_OF_ALL] = self._memory.held_back.pop("", 0)
        return {f"suppressed_{limit}": float(count) for limit, count in held.items() if count}

    def snapshot(self) -> Any:
        """Give all that must survive a restart, as JSON-able data."""
        return _CODEC.dump_python(self._memory, mode="json")

    def restore(self, state: Any) -> None:
        """Go on from a snapshot of this boot; one of another boot changes nothing.

        Raises:
            ValueError: The snapshot is not one of :meth:`snapshot`'s.

        """
        memory = _CODEC.validate_python(state)
        if memory.boot == self._boot:
            self._memory = memory

    def _counts(self, start: tuple[float, str], stamp: FrameStamp) -> bool:
        return stamp.time_s - start[0] < self._longest_s

    def _refuse(self, scope: str, reason: str) -> str:
        self._memory.held_back[scope] = self._memory.held_back.get(scope, 0) + 1
        return reason


def _reached(limit: RateLimit | None, starts_s: Sequence[float], now_s: float) -> bool:
    if limit is None:
        return False
    return sum(now_s - at_s < limit.within_s for at_s in starts_s) >= limit.alerts
