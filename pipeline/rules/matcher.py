"""Which keywords of a rule a text holds, after exclusions and negation. Pure text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import re2

from pipeline.rules.lexicon import Lexicon
from pipeline.rules.negation import negation_of
from pipeline.rules.patterns import TokenSpan, Way, compile_pattern
from pipeline.rules.schema import RuleSpec
from pipeline.rules.tokens import Token, tokenise

__all__ = ["Hit", "PatternIndex", "TextMatch", "TextMatcher"]


@dataclass(frozen=True, slots=True)
class Hit:
    """A keyword found: ``span`` are (start, end) character offsets, end exclusive."""

    keyword: str
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class TextMatch:
    """What a rule finds in a text; without hits, ``blocked`` says why if something was there.

    ``vetoed`` is whether the text holds what silences the rule, hits or not.
    """

    hits: tuple[Hit, ...] = ()
    blocked: str | None = None
    vetoed: bool = False


_NOTHING = TextMatch()  # one for all texts: it is what rules remember of most


class PatternIndex:
    """Patterns found by the word they begin with, so that most cost nothing."""

    def __init__(self, keywords: Iterable[str], lexicon: Lexicon) -> None:
        self._patterns = [compile_pattern(keyword, lexicon) for keyword in keywords]
        self._by_start: dict[str, list[int]] = {}
        self._anywhere: list[int] = []
        for number, pattern in enumerate(self._patterns):
            starts = pattern.starts()
            if starts is None:
                self._anywhere.append(number)
            for start in starts or ():
                self._by_start.setdefault(start, []).append(number)

    def find(self, tokens: Sequence[Token]) -> Iterator[tuple[str, Iterator[Way]]]:
        """Every keyword at every place where it may match, with the ways in which it does.

        By place, then in the rule's order.
        """
        for begin, token in enumerate(tokens):
            numbers = set(self._anywhere)
            for lemma in token.lemmas:
                numbers.update(self._by_start.get(lemma, ()))
            for number in sorted(numbers):  # a set of words has no order that a replay would keep
                pattern = self._patterns[number]
                yield pattern.text, pattern.ways_at(tokens, begin)


class TextMatcher:
    """The words of one rule, ready to look for in any text."""

    def __init__(self, rule: RuleSpec, lexicon: Lexicon) -> None:
        self._any = PatternIndex(rule.keywords, lexicon)
        self._all = tuple(PatternIndex(group, lexicon) for group in rule.all)
        self._none = PatternIndex(rule.none, lexicon)
        self._exclude = PatternIndex(rule.exclude, lexicon)
        self._regexes = tuple((text, _compiled(text)) for text in rule.regex)
        self._needs_any = bool(rule.keywords or rule.regex)
        self._negation = rule.negation
        self.match = lru_cache(maxsize=1024)(self._match)

    def _match(self, text: str) -> TextMatch:
        """Find the rule's keywords in a text (cached: cameras repeat themselves)."""
        tokens = tokenise(text)
        found = (next(ways, None) for _, ways in self._exclude.find(tokens))
        excluded = [(way[0][0], way[-1][1]) for way in found if way is not None]
        blocked: list[str] = []
        hits: list[Hit] = []
        if self._needs_any:
            places = [*self._any.find(tokens), *self._regex_places(text, tokens)]
            hits = list(self._kept(places, tokens, excluded, blocked))
        for group in self._all:
            one = list(self._kept(group.find(tokens), tokens, excluded, blocked))
            hits = [*hits, *one] if one and (hits or not self._needs_any) else []
            if not hits:
                break
        vetoed = any(True for _ in self._kept(self._none.find(tokens), tokens, [], []))
        if not hits:
            if blocked or vetoed:
                return TextMatch(blocked=blocked[0] if blocked else None, vetoed=vetoed)
            return _NOTHING
        if vetoed:
            return TextMatch(blocked="vetoed", vetoed=True)
        return TextMatch(tuple(_widest(hits)))

    def _kept(
        self,
        places: Iterable[tuple[str, Iterator[Way]]],
        tokens: Sequence[Token],
        excluded: list[TokenSpan],
        blocked: list[str],
    ) -> Iterator[Hit]:
        """Hits that no exclusion covers and nothing negates; ``blocked`` gets the others' why.

        One a place: "a man with no gun holds a gun" holds a gun.
        """
        for keyword, ways in places:
            reasons: list[str] = []
            for way in ways:
                begin, end = way[0][0], way[-1][1]
                if any(begin < right and left < end for left, right in excluded):
                    reasons.append("excluded")
                elif self._negation and negation_of(tokens, way):
                    reasons.append("negated")
                else:
                    yield Hit(keyword, (tokens[begin].start, tokens[end - 1].end))
                    break
            else:
                blocked += reasons[:1]

    def _regex_places(
        self, text: str, tokens: Sequence[Token]
    ) -> Iterator[tuple[str, Iterator[Way]]]:
        """Places of each expression, widened to whole words, so that negation holds too."""
        for source, regex in self._regexes:
            yield source, _ways_of(regex, text, tokens)


def _ways_of(regex: Any, text: str, tokens: Sequence[Token]) -> Iterator[Way]:
    for found in regex.finditer(text):
        start, end = found.span()
        touched = [at for at, t in enumerate(tokens) if t.start < end and start < t.end]
        if touched:
            yield ((touched[0], touched[-1] + 1),)


@lru_cache(maxsize=1024)
def _compiled(text: str) -> Any:
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    return re2.compile(text, options)


def _widest(hits: list[Hit]) -> Iterator[Hit]:
    """One hit a place: of hits on the same words the first; in the order of the text."""
    seen: set[tuple[int, int]] = set()
    for hit in sorted(hits, key=lambda hit: hit.span):
        if hit.span not in seen:
            seen.add(hit.span)
            yield hit
