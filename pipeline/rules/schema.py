"""Schema of a rules file. Every mistake is found when the file is loaded, with its line."""

from __future__ import annotations

import re
from datetime import time
from typing import Annotated, Literal

import re2
from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pipeline.moments import known_time_zone
from pipeline.rules.lexicon import LexiconFile
from pipeline.rules.patterns import check_pattern
from pipeline.yaml_models import Strict

__all__ = [
    "Confirm",
    "EvidenceSpec",
    "Examples",
    "RateLimit",
    "RuleSpec",
    "RulesFile",
    "Schedule",
    "Severity",
    "Step",
    "Zone",
]

Severity = Literal["info", "warning", "critical"]
Probability = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
PositiveSeconds = Annotated[float, Field(gt=0)]
Keyword = Annotated[str, AfterValidator(check_pattern)]
Keywords = tuple[Keyword, ...]
Sentence = Annotated[str, Field(min_length=1)]
Nats = Annotated[float, Field(allow_inf_nan=False)]
ZoneName = Annotated[str, AfterValidator(known_time_zone)]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Point = tuple[Probability, Probability]
_DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def _checked_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(
            "is not usable as a name; begin with a letter or digit, go on with letters, digits, "
            "'.', '_' and '-', 64 at most"
        )
    return text


def _checked_word(text: str) -> str:
    if not text or text.split() != [text]:
        raise ValueError("must be one word, without spaces; sentences go under 'probes'")
    return text


def _time_of_day(value: object) -> object:
    """Take ``22:00`` without quotes for what it says: to YAML it is a number in base 60.

    Hours and minutes give less than 60 x 60, with seconds it is more: ``1:00:00`` is 3600.
    """
    if not isinstance(value, (int, float)):
        return value
    seconds = value if value >= 3600 else 60 * value
    if seconds != int(seconds) or not 3600 <= seconds < 24 * 3600:
        raise ValueError('must be a time of day, such as "22:00"; midnight is "00:00"')
    minutes, second = divmod(int(seconds), 60)
    return time(*divmod(minutes, 60), second)


def _without_zone(moment: time) -> time:
    if moment.tzinfo is not None:
        raise ValueError("must be a time of day without a zone; name the zone under 'time_zone'")
    return moment


Name = Annotated[str, AfterValidator(_checked_name)]
Word = Annotated[str, AfterValidator(_checked_word)]
TimeOfDay = Annotated[time, BeforeValidator(_time_of_day), AfterValidator(_without_zone)]


def _checked_regex(text: str) -> str:
    """Compile with RE2, whose time is linear in the caption whatever the expression."""
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "not understood"
        reason = reason.decode() if isinstance(reason, bytes) else str(reason)
        raise ValueError(
            f"regular expression refused: {reason}; RE2 syntax only, without look-around "
            "and back-references"
        ) from None
    if compiled.search(""):
        raise ValueError("regular expression matches the empty text, so it would always fire")
    return text


Regex = Annotated[str, AfterValidator(_checked_regex)]


class Confirm(Strict):
    """Start only when ``matches`` of the last ``of`` captions within ``within_s`` match.

    One caption at or above ``sure_probability`` is enough by itself.
    """

    matches: Annotated[int, Field(ge=1, le=1000)] = 2
    of: Annotated[int, Field(ge=1, le=1000)] = 4
    within_s: PositiveSeconds = 10.0
    sure_probability: Annotated[float, Field(ge=0)] = 2.0

    @model_validator(mode="after")
    def _possible(self) -> Confirm:
        if self.matches > self.of:
            raise ValueError(f"{self.matches} matches of {self.of} captions can never be")
        return self


class RateLimit(Strict):
    """At most ``alerts`` alerts start within ``within_s``."""

    alerts: Annotated[int, Field(ge=1)]
    within_s: PositiveSeconds


class Schedule(Strict):
    """When a rule is active: weekdays and a time of day in a time zone.

    Without a zone of its own it is in the rules file's, and without that in this machine's.
    ``end`` before ``start`` reaches over midnight and belongs to the day on which it began.
    """

    days: tuple[Day, ...] = _DAYS
    start: TimeOfDay = time(0)
    end: TimeOfDay = time(0)
    time_zone: ZoneName | None = None


class Zone(Strict):
    """A polygon in the picture of some cameras; corners are fractions of width and height."""

    cameras: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    polygon: Annotated[tuple[Point, ...], Field(min_length=3)]

    @field_validator("polygon")
    @classmethod
    def _has_area(cls, corners: tuple[Point, ...]) -> tuple[Point, ...]:
        following = corners[1:] + corners[:1]
        pairs = zip(corners, following, strict=True)
        if abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in pairs)) < 2e-4:
            raise ValueError("polygon has no area; give at least three corners not on one line")
        return corners


class EvidenceSpec(Strict):
    """How sure the model must be, beyond the words of its best caption.

    A threshold counts only where the captioner gives that evidence: without it, words alone
    decide. What begins with ``or_`` lets a caption count that does not say the word.
    """

    concepts: dict[Word, Probability] = Field(default_factory=dict)
    """Words of the visual-concept detector, each with the least probability it must have."""
    beams: Probability = 0.0
    """Least share of the beams' probability that must match too."""
    probes: dict[Sentence, Nats] = Field(default_factory=dict)
    """Sentences, each with the least evidence for it in nats (see ``Caption.scores``)."""
    or_concepts: dict[Word, Probability] = Field(default_factory=dict)
    or_beams: Probability | None = None
    or_probes: dict[Sentence, Nats] = Field(default_factory=dict)
    above_usual: dict[Word, Probability] = Field(default_factory=dict)
    """Concepts, each with how far above this camera's usual probability it must be."""
    usual_over_s: PositiveSeconds = 300.0
    """What is usual is the median over so long; it counts after a fifth of that."""
    keep_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """An open alert goes on at this share of all these thresholds but those of probes."""

    @property
    def speaks_alone(self) -> bool:
        """Whether a caption may count by evidence other than its words and beams."""
        return bool(self.or_concepts or self.or_probes)


class WhereKnown(Strict):
    """What decides in place of words, ``evidence`` and ``confirm`` where a caption has all of this.

    ``confirm``, when not set, is the rule's own.
    """

    concepts: Annotated[dict[Word, Probability], Field(min_length=1)]
    """Words of the visual-concept detector, or ``scuffle``: each must have its probability."""
    confirm: Confirm | None = None


class Step(Strict):
    """One step of a sequence: these keywords within so long of the step before.

    With ``absent_for_s`` the other way round: none of these keywords for so long after the step
    before (of a first step: since they were last seen). One of them begins the sequence anew.
    """

    keywords: Annotated[Keywords, Field(min_length=1)]
    within_s: PositiveSeconds = 60.0
    absent_for_s: PositiveSeconds | None = None


class Escalate(Strict):
    """When nobody has acknowledged an alert of a live camera for so long, say it again, louder."""

    after_s: PositiveSeconds
    severity: Severity = "critical"


class Examples(Strict):
    """Captions on which the rule must and must not fire."""

    fires: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()


class RuleSpec(Strict):
    """One rule as written."""

    name: Name
    description: str = ""
    severity: Severity = "warning"
    tags: tuple[Name, ...] = ()
    keywords: Keywords = ()
    """Any of these makes a caption count."""
    regex: tuple[Regex, ...] = ()
    """Or any of these (RE2, case does not matter)."""
    all: tuple[Keywords, ...] = ()
    """And of each of these lists at least one."""
    none: Keywords = ()
    """A caption with any of these never counts."""
    exclude: Keywords = ()
    """Phrases that mean something else: a keyword inside one does not count."""
    sequence: tuple[Step, ...] = ()
    """Instead of keywords: steps that must be seen one after the other."""
    negation: bool = True
    """Whether "no fire" and its like take a keyword back."""
    cameras: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    """Globs over camera names, or ``group:NAME``."""
    zones: tuple[Name, ...] = ()
    schedule: tuple[Schedule, ...] = ()
    min_probability: Probability = 0.0
    """Least probability of the matched words for a caption to count before an alert is open."""
    keep_probability: Probability | None = None
    """Least probability for an open alert to go on; unset, the same."""
    evidence: EvidenceSpec = EvidenceSpec()
    confirm: Confirm | None = None
    where_known: WhereKnown | None = None
    min_duration_s: Seconds = 0.0
    """Start only when matches have gone on for so long (gaps below ``end_after_s``)."""
    end_after_s: PositiveSeconds = 10.0
    """An alert ends when nothing has matched for so long."""
    update_every_s: PositiveSeconds = 10.0
    """An open alert that goes on is published again no more often than this."""
    cooldown_s: Seconds = 60.0
    """After the last match of a published alert, the next one waits so long."""
    rate_limit: RateLimit | None = None
    """Of this rule on one camera."""
    rate_limit_all_cameras: RateLimit | None = None
    """Of this rule on all live cameras together."""
    escalate: Escalate | None = None
    examples: Examples = Examples()

    @model_validator(mode="after")
    def _has_something_to_look_for(self) -> RuleSpec:
        words = bool(self.keywords or self.regex or self.all or self.evidence.speaks_alone)
        if words and self.sequence:
            raise ValueError(
                f"rule {self.name!r} has a sequence and keywords (or regex, all, "
                "evidence.or_concepts, evidence.or_probes); make two rules of it"
            )
        if not words and not self.sequence:
            raise ValueError(
                f"rule {self.name!r} needs either keywords (or regex, all, evidence.or_concepts, "
                "evidence.or_probes) or a sequence"
            )
        for field in ("evidence", "where_known"):
            if self.sequence and getattr(self, field) not in (None, EvidenceSpec()):
                raise ValueError(
                    f"rule {self.name!r}: the steps of a sequence go by words alone; "
                    f"take out {field!r}"
                )
        if any(not group for group in self.all):
            raise ValueError(f"rule {self.name!r}: an empty list under 'all' can never match")
        return self


class RulesFile(Strict):
    """A whole rules file."""

    rules: Annotated[tuple[RuleSpec, ...], Field(min_length=1)]
    lexicon: LexiconFile = LexiconFile()
    """Words added to the shipped lexicon."""
    lexicon_files: tuple[str, ...] = ()
    """More lexicon files, relative to this file."""
    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Camera groups: name to globs; those of the configuration file count too."""
    zones: dict[Name, Zone] = Field(default_factory=dict)
    time_zone: ZoneName | None = None
    """Of schedules that name none; unset, this machine's."""
    rate_limit: RateLimit | None = None
    """Of all rules on all live cameras together; critical alerts count, but are never held back."""

    @model_validator(mode="after")
    def _names_fit(self) -> RulesFile:
        names: set[str] = set()
        for number, rule in enumerate(self.rules):
            if rule.name in names:
                _refuse(("rules", number, "name"), f"another rule is called {rule.name!r} already")
            names.add(rule.name)
            for place, zone in enumerate(rule.zones):
                if zone not in self.zones:
                    known = ", ".join(sorted(self.zones)) or "none"
                    _refuse(
                        ("rules", number, "zones", place),
                        f"unknown zone {zone!r}; zones of this file: {known}",
                    )
        return self


def _refuse(at: tuple[str | int, ...], message: str) -> None:
    """Say what is wrong at a place deeper than the model that finds it."""
    raise PydanticCustomError("misfit", "{message}", {"message": message, "at": at})
