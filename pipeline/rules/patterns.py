"""Keywords as small patterns over lemmas.

A keyword is a word or a phrase; every word is compared by lemma and stands for all that the
lexicon puts under it. Beyond plain words:

====================  ==========================================================================
``=lying``            this form only, no lemma and no lexicon
``hit|strike|ram``    any of these
``...``               up to five other words in between, within the sentence (``...8``: eight)
``*``                 exactly one word, whatever it is
``3+ person``         a number of at least three before the noun ("four young men", "several")
``knife NEAR person`` both in one sentence, at most eight words apart, in either order
                      (``NEAR/3``: three)
====================  ==========================================================================

Matching is bounded: at most three gaps a pattern, so the work per caption grows linearly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.rules.lexicon import Lexicon
from pipeline.rules.numbers import least_number_at
from pipeline.rules.tokens import Token, lemma_of

__all__ = ["Pattern", "PatternError", "TokenSpan", "Way", "check_pattern", "compile_pattern"]

_GAP = re.compile(r"\.\.\.(\d*)")
_COUNT = re.compile(r"(\d+)\+")
_NEAR = re.compile(r"\s+NEAR(?:/(\d+))?\s+")
_WORD = re.compile(r"=?[^\W_]+(?:['’-][^\W_]+)*")
_MAX_GAPS = 3
_MAX_GAP = 20
_DEFAULT_GAP = 5
_DEFAULT_NEAR = 8
_ADJECTIVES = 3  # words allowed between a number and its noun: "three young tall men"

TokenSpan = tuple[int, int]
"""First token and the one after the last."""

Way = tuple[TokenSpan, ...]
"""Where each word of a pattern stands in a match, in the order of the text; gaps are left out."""


class PatternError(ValueError):
    """A keyword that cannot be understood; the message says why and what to write."""


@dataclass(frozen=True, slots=True)
class _Form:
    """One word to find, by lemma, or by exact form."""

    value: str
    exact: bool

    def fits(self, token: Token) -> bool:
        return token.form == self.value if self.exact else self.value in token.lemmas


@dataclass(frozen=True, slots=True)
class _Words:
    """A place in the pattern that any of several words or phrases can fill.

    Single words, which are nearly all, lie in sets: ``person`` stands for dozens of them.
    """

    alternatives: tuple[tuple[_Form, ...], ...]
    lemmas: frozenset[str]
    exact: frozenset[str]
    phrases: tuple[tuple[_Form, ...], ...]

    @classmethod
    def of(cls, alternatives: tuple[tuple[_Form, ...], ...]) -> _Words:
        """Sort alternatives by how they are looked up."""
        single = [phrase[0] for phrase in alternatives if len(phrase) == 1]
        return cls(
            alternatives,
            lemmas=frozenset(form.value for form in single if not form.exact),
            exact=frozenset(form.value for form in single if form.exact),
            phrases=tuple(phrase for phrase in alternatives if len(phrase) > 1),
        )

    def ends(self, tokens: Sequence[Token], at: int) -> Iterator[int]:
        """Token after each alternative that stands at token ``at``, each once, nearest first."""
        if at >= len(tokens):
            return
        token = tokens[at]
        if token.form in self.exact or not self.lemmas.isdisjoint(token.lemmas):
            yield at + 1
        lengths = {
            len(phrase)
            for phrase in self.phrases
            if at + len(phrase) <= len(tokens)
            and all(form.fits(tokens[at + place]) for place, form in enumerate(phrase))
        }
        yield from (at + length for length in sorted(lengths))


@dataclass(frozen=True, slots=True)
class _Gap:
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class _Count:
    at_least: int


_Part = _Words | _Gap | _Count


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """A compiled keyword; ``text`` is how the rules file wrote it. Compared by identity."""

    text: str
    parts: tuple[_Part, ...]
    near: tuple[_Part, ...] = ()
    distance: int = 0

    def starts(self) -> frozenset[str] | None:
        """Lemmas or forms a match can begin with, or None when any word may begin it."""
        if not isinstance(self.parts[0], _Words):
            return None
        return frozenset(phrase[0].value for phrase in self.parts[0].alternatives)

    def ways_at(self, tokens: Sequence[Token], begin: int) -> Iterator[Way]:
        """Every way in which it matches from token ``begin`` on, within one sentence.

        The shortest comes first. For ``NEAR`` the left side begins there.
        """
        for way in _ways(self.parts, tokens, begin):
            if not self.near:
                if _one_sentence(tokens, way):
                    yield way
            else:
                yield from self._with_near(tokens, way)

    def _with_near(self, tokens: Sequence[Token], left: Way) -> Iterator[Way]:
        begin, end = left[0][0], left[-1][1]
        for at in range(
            max(0, begin - self.distance - 4), min(len(tokens), end + self.distance + 1)
        ):
            for right in _ways(self.near, tokens, at):
                apart = max(right[0][0] - end, begin - right[-1][1])
                both = tuple(sorted(left + right))
                if 0 <= apart <= self.distance and _one_sentence(tokens, both):
                    yield both


def check_pattern(text: str) -> str:
    """Return the keyword if it can be understood.

    Raises:
        PatternError: It is empty or breaks the rules above.

    """
    compile_pattern(text, Lexicon())
    return text


def compile_pattern(text: str, lexicon: Lexicon) -> Pattern:
    """Make a pattern of a keyword; the lexicon widens its words.

    Raises:
        PatternError: The keyword is empty or breaks the rules above.

    """
    sides = _NEAR.split(text.strip())
    if len(sides) > 3:
        raise PatternError(f"keyword {text!r} has more than one NEAR; one is allowed")
    if len(sides) == 1:
        return Pattern(text, _parts(sides[0], text, lexicon))
    distance = _bounded(sides[1], _DEFAULT_NEAR, text)
    return Pattern(text, _parts(sides[0], text, lexicon), _parts(sides[2], text, lexicon), distance)


def _parts(side: str, text: str, lexicon: Lexicon) -> tuple[_Part, ...]:
    words = side.split()
    if not words:
        raise PatternError("an empty keyword matches nothing; write a word or remove it")
    whole = lexicon.expand(side)
    if len(words) > 1 and len(whole) > 1:  # the phrase itself is a term of the lexicon
        return (_Words.of(_phrases(whole, text)),)
    parts: list[_Part] = []
    for word in words:
        parts.extend(_part(word, text, lexicon))
    if sum(isinstance(part, _Gap) for part in parts) > _MAX_GAPS:
        raise PatternError(f"keyword {text!r} has more than {_MAX_GAPS} gaps; use fewer")
    if isinstance(parts[0], _Gap) or isinstance(parts[-1], _Gap | _Count):
        raise PatternError(f"keyword {text!r} must begin and end with a word")
    return tuple(parts)


def _part(word: str, text: str, lexicon: Lexicon) -> list[_Part]:
    if word == "*":
        return [_Gap(1, 1)]
    gap = _GAP.fullmatch(word)
    if gap:
        return [_Gap(0, _bounded(gap[1], _DEFAULT_GAP, text))]
    count = _COUNT.fullmatch(word)
    if count:
        return [_Count(int(count[1])), _Gap(0, _ADJECTIVES)]
    terms = [term for option in word.split("|") for term in lexicon.expand(option)]
    return [_Words.of(_phrases(tuple(terms), text))]


def _phrases(terms: tuple[str, ...], text: str) -> tuple[tuple[_Form, ...], ...]:
    return tuple(dict.fromkeys(tuple(_forms(term, text)) for term in terms))


def _forms(term: str, text: str) -> Iterator[_Form]:
    if not term.strip():
        raise PatternError(f"keyword {text!r} has an empty alternative; remove the stray '|'")
    for word in term.split():
        if not _WORD.fullmatch(word):
            hint = "write NEAR or NEAR/3" if "NEAR" in word else "for other signs use 'regex'"
            raise PatternError(f"keyword {text!r}: {word!r} is not a word; {hint}")
        exact = word.startswith("=")
        for piece in word.removeprefix("=").lower().replace("’", "'").split("-"):
            yield _Form(piece if exact else lemma_of(piece), exact)


def _bounded(digits: str | None, default: int, text: str) -> int:
    size = int(digits) if digits else default
    if size > _MAX_GAP:
        raise PatternError(f"keyword {text!r}: {size} words apart is too far; at most {_MAX_GAP}")
    return size


def _one_sentence(tokens: Sequence[Token], way: Way) -> bool:
    return tokens[way[0][0]].sentence == tokens[way[-1][1] - 1].sentence


def _ways(parts: tuple[_Part, ...], tokens: Sequence[Token], at: int) -> Iterator[Way]:
    """Each way in which ``parts`` match from token ``at`` on."""
    if not parts:
        yield ()
        return
    for after in _after(parts[0], tokens, at):
        here = () if isinstance(parts[0], _Gap) else ((at, after),)
        for rest in _ways(parts[1:], tokens, after):
            yield (*here, *rest)


def _after(part: _Part, tokens: Sequence[Token], at: int) -> Iterator[int]:
    if isinstance(part, _Gap):
        yield from range(at + part.least, min(at + part.most, len(tokens)) + 1)
    elif isinstance(part, _Count):
        found = least_number_at(tokens, at)
        if found is not None and found[0] >= part.at_least:
            yield found[1]
    else:
        yield from part.ends(tokens, at)
