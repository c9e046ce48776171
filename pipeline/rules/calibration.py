"""Choose one threshold of one rule on labelled captions, for a wanted rate of false alerts.

The whole rule is replayed at each value tried (confirmation, cooldown and all), so the rate is
one of alerts, as people would get them, and not one of captions.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError, model_validator

from pipeline.errors import WrongUse
from pipeline.messages import Alert, AlertState, Caption
from pipeline.rules.judge import Judge
from pipeline.rules.replay import replay
from pipeline.rules.ruleset import Rule, RuleSet
from pipeline.rules.schema import RuleSpec, WhereKnown
from pipeline.rules.track import Track
from pipeline.yaml_models import ConfigError, Problem, Strict

__all__ = ["Label", "Point", "Threshold", "calibrate", "chosen", "read_labels"]

log = logging.getLogger(__name__)

LATE = timedelta(seconds=5)  # an alert may start so long after its event: windows reach back
_MAPPINGS = ("concepts", "or_concepts", "probes", "or_probes")
_EITHER = "either_concepts"
_WHERE_KNOWN = "where_known"
_NUMBERS = ("beams", "or_beams")


class Label(Strict):
    """Something that happened: on which camera, from when to when, and which tags name it.

    Times are seconds from the recording's start, or RFC 3339 with an offset. Footage without a
    label is normal.
    """

    camera: Annotated[str, Field(min_length=1)]
    tags: Annotated[tuple[str, ...], Field(min_length=1)]
    from_s: float | None = None
    to_s: float | None = None
    from_time: datetime | None = None
    to_time: datetime | None = None

    @model_validator(mode="after")
    def _has_both_ends(self) -> Label:
        media = self.from_s is not None and self.to_s is not None
        wall = self.from_time is not None and self.to_time is not None
        if media == wall:
            raise ValueError("needs 'from_s' and 'to_s', or 'from_time' and 'to_time'")
        for key in ("from_time", "to_time"):
            moment: datetime | None = getattr(self, key)
            if moment is not None and moment.tzinfo is None:
                raise ValueError(f"{key!r} needs an offset: end it with Z for UTC")
        return self

    def covers(self, caption: Caption, late: timedelta = timedelta(0)) -> bool:
        """Whether a caption's last frame lies in the label, or at most ``late`` after it."""
        stamp = caption.stamp
        if self.from_s is not None and self.to_s is not None:
            at_s = stamp.time_s
            return self.from_s <= at_s <= self.to_s + late.total_seconds()
        assert self.from_time is not None
        assert self.to_time is not None
        return self.from_time <= stamp.captured_at <= self.to_time + late


@dataclass(frozen=True, slots=True)
class Threshold:
    """Which number of a rule to set.

    ``key`` is ``min_probability``, ``beams``, ``or_beams``, or a name with a dot in it such as
    ``or_concepts.fire`` or ``probes.a person is lying on the floor``. ``either_concepts.fire``
    sets ``concepts`` and ``or_concepts`` alike, so that the evidence decides, said or unsaid;
    ``where_known.scuffle`` one of those that decide where they are known.
    """

    key: str

    def __post_init__(self) -> None:
        kind, _, name = self.key.partition(".")
        plain = self.key == "min_probability" or self.key in _NUMBERS
        mappings = (*_MAPPINGS, _EITHER, _WHERE_KNOWN)
        if not plain and not (kind in mappings and name):
            known = ", ".join(["min_probability", *_NUMBERS, *(f"{k}.NAME" for k in mappings)])
            raise WrongUse(f"no threshold {self.key!r}; there are: {known}")

    def set_in(self, spec: RuleSpec, value: float) -> RuleSpec:
        """Return the rule with the threshold at ``value``."""
        if self.key == "min_probability":
            return spec.model_copy(update={"min_probability": value})
        kind, _, name = self.key.partition(".")
        if kind == _WHERE_KNOWN:
            before = spec.where_known or WhereKnown(concepts={name: value})
            concepts = {**before.concepts, name: value}
            known = before.model_copy(update={"concepts": concepts})
            return spec.model_copy(update={"where_known": known})
        kinds = ("concepts", "or_concepts") if kind == _EITHER else (kind,)
        new: dict[str, Any] = {
            kind: {**getattr(spec.evidence, kind), name: value} if name else value for kind in kinds
        }
        return spec.model_copy(update={"evidence": spec.evidence.model_copy(update=new)})

    def value(self, rule: Rule, caption: Caption) -> float | None:
        """Return what the threshold would be held against on this caption, if there is anything."""
        kind, _, name = self.key.partition(".")
        if kind in ("concepts", "or_concepts", _EITHER, _WHERE_KNOWN):
            return caption.concepts[name].probability if name in caption.concepts else None
        if kind in ("probes", "or_probes"):
            return caption.scores.get(name)
        open_rule = _with_spec(rule, self.set_in(rule.spec, 0.0))
        found = Judge(open_rule, (), lambda rule, reason: None).match(Track(), caption)
        if found is None:
            return None
        return found.probability if kind == "min_probability" else found.evidence.get("beams")


@dataclass(frozen=True, slots=True)
class Point:
    """One value tried: ``recall`` is the share of labelled events with an alert, 0..1.

    ``false`` alerts are those that no label explains.
    """

    value: float
    recall: float
    false_per_hour: float
    false: int = 0


def _refuse_strangers(labels: Sequence[Label], captions: Sequence[Caption]) -> None:
    """Say which labels no caption can meet; refuse where that is all of them."""
    cameras = sorted({caption.stamp.camera for caption in captions})
    if unknown := sorted({label.camera for label in labels} - set(cameras)):
        said = (
            f"a label is of camera {unknown[0]!r}, and no caption is; there are "
            f"{', '.join(cameras)}"
        )
        if all(label.camera in unknown for label in labels):
            raise WrongUse(said)
        log.warning("%s; its events count as missed", said)


def calibrate(
    captions: Iterable[Caption],
    labels: Sequence[Label],
    rules: RuleSet,
    rule_name: str,
    threshold: Threshold,
    steps: int = 25,
) -> list[Point]:
    """Replay a rule at values of a threshold, lowest first.

    Raises:
        WrongUse: There is no such rule, or nothing to measure: no event with the rule's tags,
            no normal footage, or no caption that carries what the threshold is held against.

    """
    stored = list(captions)
    rule = _rule_of(rules, rule_name)
    served = [label for label in labels if set(label.tags) & set(rule.spec.tags)]
    if not served:
        tags = ", ".join(rule.spec.tags) or "it has none: give it 'tags'"
        raise WrongUse(f"no label has a tag of rule {rule_name!r} ({tags})")
    _refuse_strangers(served, stored)
    hours = _normal_hours(stored, served)
    if hours == 0:
        raise WrongUse("there is no footage without such a label, so no false alert can be seen")
    measured = [(v, c) for c in stored if (v := threshold.value(rule, c)) is not None]
    if not measured:
        raise WrongUse(f"no caption has what {threshold.key!r} is held against")
    within = [v for v, caption in measured if any(_covers(label, caption) for label in served)]
    shares = np.linspace(0, 1, steps)
    # Events are rare: most quantiles of all captions lie far below any threshold worth trying.
    groups = [values for values in ([v for v, _ in measured], within) if values]
    tried = np.unique([np.quantile(values, shares, method="nearest") for values in groups])
    return [
        _point(stored, served, _only(rules, rule, threshold, float(value)), float(value), hours)
        for value in tried
    ]


def chosen(points: Sequence[Point], false_per_hour: float) -> Point | None:
    """Return the point of most recall, then of fewest false alerts, within the wanted rate."""
    within = [point for point in points if point.false_per_hour <= false_per_hour]
    return max(within, key=lambda p: (p.recall, -p.false_per_hour, p.value), default=None)


def read_labels(path: str | Path) -> list[Label]:
    """Read labels, one JSON object a line.

    Raises:
        ConfigError: The file cannot be read, or a line is no label; with file and line.

    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), None, f"cannot be read: {error}")]) from None
    labels: list[Label] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            labels.append(Label.model_validate_json(line))
        except ValidationError as error:
            detail = error.errors()[0]
            where = ".".join(map(str, detail["loc"]))
            reason = str(detail["msg"]).removeprefix("Value error, ")
            message = f"not a label: {where + ': ' if where else ''}{reason}"
            raise ConfigError([Problem(str(path), number, message)]) from None
    return labels


def _rule_of(rules: RuleSet, name: str) -> Rule:
    for rule in rules.rules:
        if rule.spec.name == name:
            return rule
    known = ", ".join(rule.spec.name for rule in rules.rules)
    raise WrongUse(f"no rule {name!r} in {rules.path}; there are: {known}")


def _with_spec(rule: Rule, spec: RuleSpec) -> Rule:
    return Rule(spec, rule.matcher, rule.steps, rule.zones)


def _only(rules: RuleSet, rule: Rule, threshold: Threshold, value: float) -> RuleSet:
    alone = _with_spec(rule, threshold.set_in(rule.spec, value))
    return RuleSet((alone,), rules.version, rules.groups, rules.path)


def _point(
    captions: Sequence[Caption],
    labels: Sequence[Label],
    rules: RuleSet,
    value: float,
    hours: float,
) -> Point:
    started = [a for a in replay(captions, rules) if a.state is AlertState.STARTED]
    by_camera: Mapping[str, list[Alert]] = defaultdict(list)
    for alert in started:
        by_camera[alert.stamp.camera].append(alert)
    found = sum(any(_explains(label, a) for a in by_camera[label.camera]) for label in labels)
    false = sum(not any(_explains(label, alert) for label in labels) for alert in started)
    return Point(value, found / len(labels), false / hours, false)


def _covers(label: Label, caption: Caption) -> bool:
    return label.camera == caption.stamp.camera and label.covers(caption)


def _explains(label: Label, alert: Alert) -> bool:
    at = Caption(alert.stamp, alert.caption, 0.0)
    return label.camera == alert.stamp.camera and label.covers(at, LATE)


def _normal_hours(captions: Sequence[Caption], labels: Sequence[Label]) -> float:
    """Hours between neighbouring captions of a camera that lie in no label; gaps count as seen."""
    last: dict[str, Caption] = {}
    seconds = 0.0
    for caption in captions:
        camera = caption.stamp.camera
        before = last.get(camera)
        labelled = any(_covers(label, caption) for label in labels)
        if before is not None and not labelled:
            seconds += max(0.0, caption.stamp.time_s - before.stamp.time_s)
        last[camera] = caption
    return seconds / 3600
