"""When an alert starts, goes on and ends. One rule on one camera; times are the camera's own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import dropwhile

from pipeline.messages import Alert, AlertState, Caption, Evidence, FrameStamp
from pipeline.rules.limits import Limits
from pipeline.rules.schema import Confirm, RuleSpec
from pipeline.rules.track import Sighting, Track

__all__ = ["Lifecycle", "Match", "alert_id"]

_CLEAR_RISE = 0.2  # a rise in probability that is worth an update at once
_MAX_SIGHTINGS = 1000


@dataclass(frozen=True, slots=True)
class Match:
    """What a rule found in one caption: its evidence and how sure it is, 0..1.

    ``confirm`` is what its evidence asks for in place of the rule's own.
    """

    keywords: tuple[Evidence, ...]
    probability: float
    first_seen: datetime | None = None
    evidence: Mapping[str, float] = field(default_factory=dict)
    confirm: Confirm | None = None


def alert_id(camera: str, rule: str, first_seen: datetime) -> str:
    """Return 20 hex digits, the same for the same camera, rule and first frame's capture time."""
    moment = first_seen.astimezone(timezone.utc).isoformat(timespec="microseconds")
    return hashlib.sha256(f"{camera}\0{rule}\0{moment}".encode()).hexdigest()[:20]


class Lifecycle:
    """Turns the matches of one rule into alert revisions; remembers nothing but the track."""

    def __init__(
        self,
        rule: RuleSpec,
        track: Track,
        version: str,
        clock: Callable[[], datetime],
        suppressed: Callable[[str, str], None],
        limits: Limits,
    ) -> None:
        self._rule = rule
        self._track = track
        self._version = version
        self._clock = clock
        self._suppressed = suppressed
        self._limits = limits

    def advance(self, caption: Caption, match: Match | None) -> list[Alert]:
        """Take in one caption, which matched or not, and return what is to be published."""
        now_s = caption.stamp.time_s
        alerts = self.expire(caption.stamp)
        self._remember(caption.stamp, match)
        if match is None:
            return alerts
        self._track.last_match_s = now_s
        if self._track.alert is not None:
            alerts += self._go_on(caption, match)
        else:
            alerts += self._maybe_start(caption, match)
        return alerts

    def expire(self, stamp: FrameStamp, now_s: float | None = None) -> list[Alert]:
        """End the open alert if nothing has matched for ``end_after_s``."""
        now_s = stamp.time_s if now_s is None else now_s
        last_s = self._track.last_match_s
        if last_s is None or now_s - last_s <= self._rule.end_after_s:
            return []
        self._track.run_started_s = None
        return self.end(stamp)

    def end(self, stamp: FrameStamp) -> list[Alert]:
        """End the open alert, if there is one."""
        track = self._track
        if track.alert is None:
            return []
        ended = replace(
            track.alert,
            revision=track.alert.revision + 1,
            state=AlertState.ENDED,
            stamp=stamp,
            detected_at=self._clock(),
            count=track.count,
        )
        if track.step_started_at == track.alert.first_seen:
            # The absence that it tells of may last (a schedule closed, a run was stopped); what
            # comes of that later is another alert, which must not bear this one's id.
            # Named by its last caption: when the end is noticed differs from run to run.
            track.step_started_at = track.alert.last_seen
        if track.last_match_s is not None:
            track.cooldown_until_s = track.last_match_s + self._rule.cooldown_s
        track.alert = None
        track.sightings.clear()
        track.run_started_s = None
        return [ended]

    def _remember(self, stamp: FrameStamp, match: Match | None) -> None:
        track, now_s = self._track, stamp.time_s
        if match is not None and track.run_started_s is None:
            track.run_started_s, track.run_started_at = now_s, stamp.captured_at
        asked = self._confirmations()
        if not asked or (match is None and not track.sightings):
            return  # what comes before a first match counts for nothing and need not be stored
        known = match is not None and match.confirm is not None
        track.sightings.append(Sighting(now_s, stamp.captured_at, match is not None, known))
        of, within_s = max(one.of for one in asked), max(one.within_s for one in asked)
        recent = _recent(track.sightings, now_s, min(of, _MAX_SIGHTINGS), within_s)
        track.sightings = list(dropwhile(lambda seen: not seen.matched, recent))

    def _maybe_start(self, caption: Caption, match: Match) -> list[Alert]:
        if match.probability < self._rule.min_probability:
            self._suppressed(self._rule.name, "min_probability")
            return []
        first_seen = self._confirmed_since(caption.stamp, match)
        if first_seen is None:
            self._suppressed(self._rule.name, "unconfirmed")
            return []
        reason = self._held_back(caption.stamp.time_s)
        if reason is not None:
            self._suppressed(self._rule.name, reason)
            self._track.held_back[reason] = self._track.held_back.get(reason, 0) + 1
            return []
        refusal = self._limits.refusal(self._rule, caption.stamp)
        if refusal is not None:
            self._suppressed(self._rule.name, refusal)
            return []
        return [self._start(caption, match, first_seen)]

    def _confirmed_since(self, stamp: FrameStamp, match: Match) -> datetime | None:
        """Capture time of the first match that counts, or None when it is too early."""
        rule, track = self._rule, self._track
        first_seen = match.first_seen or stamp.captured_at
        if rule.min_duration_s and track.run_started_s is not None:
            if stamp.time_s - track.run_started_s < rule.min_duration_s:
                return None
            first_seen = track.run_started_at or first_seen
        confirm = match.confirm or rule.confirm
        if confirm is None or match.probability >= confirm.sure_probability:
            return first_seen
        recent = _recent(track.sightings, stamp.time_s, confirm.of, confirm.within_s)
        known = match.confirm is not None
        matched = [seen for seen in recent if seen.matched and seen.known is known]
        if len(matched) < confirm.matches:
            return None
        return first_seen if rule.min_duration_s else matched[0].captured_at

    def _confirmations(self) -> list[Confirm]:
        """All that a match of the rule may have to wait for."""
        known = self._rule.where_known
        asked = (self._rule.confirm, None if known is None else known.confirm)
        return [one for one in asked if one is not None]

    def _held_back(self, now_s: float) -> str | None:
        track, limit = self._track, self._rule.rate_limit
        if track.snoozed_until_s is not None and now_s < track.snoozed_until_s:
            return "snoozed"
        if track.cooldown_until_s is not None and now_s < track.cooldown_until_s:
            return "cooldown"
        if limit is not None:
            track.started_s = [at for at in track.started_s if now_s - at < limit.within_s]
            if len(track.started_s) >= limit.alerts:
                return "rate_limit"
        return None

    def _start(self, caption: Caption, match: Match, first_seen: datetime) -> Alert:
        track, rule = self._track, self._rule
        track.count = max(1, sum(seen.matched for seen in track.sightings))
        track.best_probability = match.probability
        track.published_s = caption.stamp.time_s
        if rule.rate_limit is not None:
            track.started_s.append(caption.stamp.time_s)
        held_back = {f"suppressed_{why}": float(count) for why, count in track.held_back.items()}
        track.held_back = {}
        held_back |= self._limits.started(rule, caption.stamp)
        track.alert = self._revision(
            caption, replace(match, evidence={**match.evidence, **held_back}), first_seen, 1
        )
        return track.alert

    def _go_on(self, caption: Caption, match: Match) -> list[Alert]:
        track = self._track
        assert track.alert is not None
        track.count += 1
        due = caption.stamp.time_s - track.published_s >= self._rule.update_every_s
        rose = match.probability >= track.best_probability + _CLEAR_RISE
        track.best_probability = max(track.best_probability, match.probability)
        if not (due or rose):
            seen = caption.stamp.captured_at
            track.alert = replace(track.alert, last_seen=seen)
            return []
        track.published_s = caption.stamp.time_s
        track.alert = self._revision(
            caption, match, track.alert.first_seen, track.alert.revision + 1
        )
        return [track.alert]

    def _revision(
        self, caption: Caption, match: Match, first_seen: datetime, revision: int
    ) -> Alert:
        rule, stamp = self._rule, caption.stamp
        regions = (evidence.region for evidence in match.keywords)
        return Alert(
            id=alert_id(stamp.camera, rule.name, first_seen),
            revision=revision,
            state=AlertState.STARTED if revision == 1 else AlertState.UPDATED,
            rule=rule.name,
            severity=rule.severity,
            tags=rule.tags,
            stamp=stamp,
            first_seen=first_seen,
            last_seen=stamp.captured_at,
            detected_at=self._clock(),
            count=self._track.count,
            caption=caption.text,
            probability=match.probability,
            keywords=match.keywords,
            region=next((region for region in regions if region is not None), None),
            evidence=dict(match.evidence),
            alternatives=caption.alternatives,
            model=caption.model,
            rules_version=self._version,
        )


def _recent(
    sightings: Sequence[Sighting], now_s: float, of: int, within_s: float
) -> list[Sighting]:
    return [seen for seen in sightings if seen.time_s >= now_s - within_s][-of:]
