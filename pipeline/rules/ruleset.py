"""From a rules file to rules ready to run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.rules.lexicon import Lexicon, LexiconFile, shipped_lexicon
from pipeline.rules.matcher import TextMatcher
from pipeline.rules.places import watches_camera
from pipeline.rules.schema import RateLimit, RulesFile, RuleSpec, Zone
from pipeline.yaml_models import ConfigError, Problem, line_of, load_yaml_model

__all__ = ["Rule", "RuleSet", "check_examples", "load_rules", "make_rules"]


@dataclass(frozen=True)
class Rule:
    """A rule with its words compiled and its zones looked up."""

    spec: RuleSpec
    matcher: TextMatcher
    steps: tuple[TextMatcher, ...]
    zones: tuple[Zone, ...]

    def finds(self, text: str) -> bool:
        """Whether a text, by itself, counts: for a sequence, for one of its steps."""
        return any(matcher.match(text).hits for matcher in (self.matcher, *self.steps))


@dataclass(frozen=True)
class RuleSet:
    """All rules of a file; ``version`` names their content (12 hex digits), not their form.

    ``lexicon_files`` are those that the file names.
    """

    rules: tuple[Rule, ...]
    version: str
    groups: Mapping[str, Sequence[str]]
    path: str = "<rules>"
    rate_limit: RateLimit | None = None
    lexicon_files: tuple[Path, ...] = ()

    @property
    def concepts(self) -> tuple[str, ...]:
        """Words that some rule asks the visual-concept detector about, sorted."""
        specs = [rule.spec.evidence for rule in self.rules]
        words = {word for s in specs for word in (*s.concepts, *s.or_concepts, *s.above_usual)}
        known = [rule.spec.where_known for rule in self.rules]
        words |= {word for one in known if one is not None for word in one.concepts}
        return tuple(sorted(words))

    @property
    def probes(self) -> tuple[str, ...]:
        """Sentences that some rule wants scored, sorted."""
        specs = [rule.spec.evidence for rule in self.rules]
        return tuple(sorted({text for s in specs for text in (*s.probes, *s.or_probes)}))

    def of_camera(self, camera: str, groups: Mapping[str, Sequence[str]]) -> tuple[Rule, ...]:
        """Rules that watch a camera; a rule with zones watches only cameras that have one."""
        known = {**self.groups, **groups}
        return tuple(
            rule
            for rule in self.rules
            if watches_camera(rule.spec.cameras, camera, known)
            and (
                not rule.zones or any(watches_camera(z.cameras, camera, known) for z in rule.zones)
            )
        )


def load_rules(path: str | Path) -> RuleSet:
    """Read and check a rules file.

    Raises:
        ConfigError: With every problem found, each with its line.

    """
    file = load_yaml_model(path, RulesFile)
    problems: list[Problem] = []
    extra: list[LexiconFile] = []
    lexicon_files = tuple(Path(path).parent / name for name in file.lexicon_files)
    for lexicon_file in lexicon_files:
        try:
            extra.append(load_yaml_model(lexicon_file, LexiconFile))
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return replace(make_rules(file, extra, str(path)), lexicon_files=lexicon_files)


def make_rules(
    file: RulesFile, extra: Sequence[LexiconFile] = (), path: str = "<rules>"
) -> RuleSet:
    """Compile a rules file that is already read; ``extra`` are its lexicon files."""
    lexicons = [shipped_lexicon(), *extra, file.lexicon]
    lexicon = Lexicon.of(lexicons)
    content = [model.model_dump(mode="json") for model in (*lexicons, file)]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    return RuleSet(
        rules=tuple(_compiled(spec, file, lexicon) for spec in file.rules),
        version=digest.hexdigest()[:12],
        groups=file.groups,
        path=path,
        rate_limit=file.rate_limit,
    )


def _compiled(written: RuleSpec, file: RulesFile, lexicon: Lexicon) -> Rule:
    spec = _in_zone(written, file.time_zone)
    return Rule(
        spec=spec,
        matcher=TextMatcher(spec, lexicon),
        steps=tuple(
            TextMatcher(spec.model_copy(update={"keywords": step.keywords}), lexicon)
            for step in spec.sequence
        ),
        zones=tuple(file.zones[name] for name in spec.zones),
    )


def _in_zone(spec: RuleSpec, zone: str | None) -> RuleSpec:
    """Give schedules that name no time zone the file's."""
    schedule = tuple(
        each if each.time_zone is not None else each.model_copy(update={"time_zone": zone})
        for each in spec.schedule
    )
    return spec.model_copy(update={"schedule": schedule})


def check_examples(rules: RuleSet) -> list[Problem]:
    """Try each rule on its own examples; every caption that comes out wrong is a problem."""
    problems: list[Problem] = []

    def refuse(number: int, kind: str, place: int, message: str) -> None:
        problems.append(Problem(rules.path, _line(rules, number, kind, place), message))

    for number, rule in enumerate(rules.rules):
        name, examples = rule.spec.name, rule.spec.examples
        for place, text in enumerate(examples.fires):
            if not rule.finds(text):
                blocked = rule.matcher.match(text).blocked
                why = f" ({blocked})" if blocked else ""
                refuse(number, "fires", place, f"rule {name!r} must fire on {text!r}{why}")
        for place, text in enumerate(examples.silent):
            if rule.finds(text):
                matchers = (rule.matcher, *rule.steps)
                hit = next(hit for matcher in matchers for hit in matcher.match(text).hits)
                message = f"rule {name!r} must stay silent on {text!r}, but {hit.keyword!r} matches"
                refuse(number, "silent", place, message)
    return problems


def _line(rules: RuleSet, number: int, kind: str, place: int) -> int | None:
    """Line of an example, where the rules were read from a file."""
    if not Path(rules.path).is_file():
        return None
    return line_of(rules.path, ("rules", number, "examples", kind, place))
