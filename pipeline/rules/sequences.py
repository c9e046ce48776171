"""Rules of several steps: one thing after another, or something that stays away."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache

from pipeline.messages import Caption, Evidence, FrameStamp
from pipeline.rules.evidence import evidence_of
from pipeline.rules.lifecycle import Match
from pipeline.rules.ruleset import Rule
from pipeline.rules.schema import Step
from pipeline.rules.track import Track

__all__ = ["advance_sequence"]

Inside = Callable[[Sequence[Evidence]], Sequence[Evidence]]
"""Keeps the evidence that lies in the rule's zones."""


def advance_sequence(rule: Rule, track: Track, caption: Caption, inside: Inside) -> Match | None:
    """Take the sequence on by what the caption shows; a match when its last step is fulfilled.

    A last step that waits for an absence goes on matching for as long as the absence lasts. A
    caption that ``none`` silences tells nothing: it neither ends an absence nor is a part of one.
    """
    steps, stamp = rule.spec.sequence, caption.stamp
    _forget_other_steps(track, steps)
    if steps[track.step].absent_for_s is not None and rule.matcher.match(caption.text).vetoed:
        return None
    if track.step_s is None or _too_late(rule, track, stamp):
        _restart(track, stamp)
    track.watched_s = stamp.time_s
    seen = _seen(rule, track.step, caption, inside)
    if steps[track.step].absent_for_s is None:
        return _go_on(rule, track, caption, seen) if seen else None
    if seen:
        _restart(track, stamp)
        first = _seen(rule, 0, caption, inside) if steps[0].absent_for_s is None else []
        return _go_on(rule, track, caption, first) if first else None
    return _go_on(rule, track, caption, []) if _absent_long_enough(track, steps, stamp) else None


def _forget_other_steps(track: Track, steps: Sequence[Step]) -> None:
    """Begin anew where the rule was edited since: its steps may be others, and fewer.

    What a version that did not note the steps has left goes on as far as there are so many.
    """
    now = _name_of(tuple(steps))
    if track.steps not in ("", now) or track.step >= len(steps):
        track.step, track.step_s = 0, None
    track.steps = now


@lru_cache(maxsize=1024)
def _name_of(steps: tuple[Step, ...]) -> str:
    """Eight hex digits, the same in every run."""
    written = "\n".join(step.model_dump_json() for step in steps)
    return hashlib.sha256(written.encode()).hexdigest()[:8]


def _seen(rule: Rule, step: int, caption: Caption, inside: Inside) -> Sequence[Evidence]:
    hits = rule.steps[step].match(caption.text).hits
    return inside(evidence_of(caption, hits, None)) if hits else ()


def _too_late(rule: Rule, track: Track, stamp: FrameStamp) -> bool:
    """Whether the step has run out of time, or an absence was not watched without a gap."""
    assert track.step_s is not None
    step = rule.spec.sequence[track.step]
    if step.absent_for_s is None:
        return track.step > 0 and stamp.time_s - track.step_s > step.within_s
    watched_s = track.step_s if track.watched_s is None else track.watched_s
    return stamp.time_s - watched_s > rule.spec.end_after_s


def _absent_long_enough(track: Track, steps: Sequence[Step], stamp: FrameStamp) -> bool:
    least_s = steps[track.step].absent_for_s
    assert least_s is not None
    assert track.step_s is not None
    return stamp.time_s - track.step_s >= least_s


def _restart(track: Track, stamp: FrameStamp) -> None:
    track.step, track.step_s, track.step_probability = 0, stamp.time_s, 1.0
    track.step_started_at = stamp.captured_at


def _go_on(rule: Rule, track: Track, caption: Caption, seen: Sequence[Evidence]) -> Match | None:
    """Fulfil the step that was waited for; ``seen`` is empty when it was an absence."""
    steps, stamp = rule.spec.sequence, caption.stamp
    if track.step == 0 and seen:
        track.step_started_at = stamp.captured_at
    if seen:
        sure = max(evidence.probability for evidence in seen)
        track.step_probability = min(track.step_probability, sure)
    if track.step + 1 < len(steps):
        track.step, track.step_s = track.step + 1, stamp.time_s
        return None
    probability, first_seen = track.step_probability, track.step_started_at
    if seen:
        _restart(track, stamp)
    told = Evidence(_written(steps), "", (0, 0), probability)
    return Match((*seen, told), probability, first_seen=first_seen)


def _written(steps: Sequence[Step]) -> str:
    """Write a sequence as it stands in an alert: "enter > no leave for 60 s"."""
    parts = [
        step.keywords[0]
        if step.absent_for_s is None
        else f"no {step.keywords[0]} for {step.absent_for_s:g} s"
        for step in steps
    ]
    return " > ".join(parts)
