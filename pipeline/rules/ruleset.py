"""From a rules file to rules ready to run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import ConfigError, Problem, load_yaml_model
from pipeline.rules.lexicon import Lexicon, LexiconFile, shipped_lexicon
from pipeline.rules.matcher import PatternIndex, TextMatcher
from pipeline.rules.places import watches_camera
from pipeline.rules.schema import RulesFile, RuleSpec, Zone
from pipeline.rules.tokens import tokenise

__all__ = ["Rule", "RuleSet", "check_examples", "load_rules", "make_rules"]


@dataclass(frozen=True)
class Rule:
    """A rule with its words compiled and its zones looked up."""

    spec: RuleSpec
    matcher: TextMatcher
    steps: tuple[PatternIndex, ...]
    zones: tuple[Zone, ...]

    def step_found(self, step: int, text: str) -> bool:
        """Whether a text holds one of the keywords of a step of the sequence."""
        return any(True for _ in self.steps[step].find(tokenise(text)))


@dataclass(frozen=True)
class RuleSet:
    """All rules of a file; ``version`` names their content (12 hex digits), not their form."""

    rules: tuple[Rule, ...]
    version: str
    groups: Mapping[str, Sequence[str]]
    path: str = "<rules>"

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
    for name in file.lexicon_files:
        try:
            extra.append(load_yaml_model(Path(path).parent / name, LexiconFile))
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return make_rules(file, extra, str(path))


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
    )


def _compiled(spec: RuleSpec, file: RulesFile, lexicon: Lexicon) -> Rule:
    return Rule(
        spec=spec,
        matcher=TextMatcher(spec, lexicon),
        steps=tuple(PatternIndex(step.keywords, lexicon) for step in spec.sequence),
        zones=tuple(file.zones[name] for name in spec.zones),
    )


def check_examples(rules: RuleSet) -> list[Problem]:
    """Try each rule on its own examples; every caption that comes out wrong is a problem."""
    problems: list[Problem] = []
    for rule in rules.rules:
        name = rule.spec.name
        for text in rule.spec.examples.fires:
            found = rule.matcher.match(text)
            if not found.hits:
                why = f" ({found.blocked})" if found.blocked else ""
                problems.append(
                    Problem(rules.path, None, f"rule {name!r} must fire on {text!r}{why}")
                )
        for text in rule.spec.examples.silent:
            hits = rule.matcher.match(text).hits
            if hits:
                message = (
                    f"rule {name!r} must stay silent on {text!r}, but {hits[0].keyword!r} matches"
                )
                problems.append(Problem(rules.path, None, message))
    return problems
