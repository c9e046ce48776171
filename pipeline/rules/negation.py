"""What takes a keyword back: "no fire", "without a weapon", "pretending to fight", "fake gun".

A cue takes back what follows it within its reach (in words) and within its clause; "no sign of
smoke or fire" takes back both. Things that merely end ("the fight stops") are not negations.

Of a match of several words each may be taken back: "a man holds no gun", "a man is not lying on the
ground". Between two of them a cue must stand close by its word, since what it speaks of may be
something else: "a man with no shoes falls to the ground" is a fall.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from pipeline.rules.patterns import Way
from pipeline.rules.tokens import Token

__all__ = ["negation_of"]

# Cue -> how many words may stand between it and the keyword.
_REACH: dict[tuple[str, ...], int] = {
    ("no",): 4,
    ("not",): 2,
    ("never",): 2,
    ("without",): 5,
    ("nobody",): 2,
    ("no", "one"): 3,
    ("none",): 3,
    ("neither",): 3,
    ("nor",): 3,
    ("absence", "of"): 3,
    ("lack", "of"): 3,
    ("free", "of"): 3,
    ("instead", "of"): 3,
    ("rather", "than"): 3,
    ("pretend",): 3,
    ("pretend", "to"): 3,
    ("imitate",): 3,
    ("fake",): 2,
    ("toy",): 2,
    ("mock",): 2,
    ("staged",): 2,
    ("practice",): 2,
    ("avoid",): 4,
    ("prevent",): 5,
    ("almost",): 1,
    ("nearly",): 1,
    ("narrowly",): 2,
    ("fail", "to"): 1,
}
_LONGEST = 2
_FURTHEST = max(_REACH.values()) + _LONGEST
# Cues that stand before a noun; the others stand before a verb, or what is as good as one.
_OF_NOUNS = {("no",), ("without",), ("none",), ("neither",), ("nor",)} | {
    (word, "of") for word in ("absence", "lack", "free", "instead")
}
_OF_NOUNS |= {("rather", "than"), ("fake",), ("toy",), ("mock",), ("staged",), ("practice",)}
# What may stand between such a cue and its noun without being one itself.
_FILLERS = (
    "a an the any his her their its this that sort kind type of sign trace use real true actual "
    "visible apparent obvious single other more such big large small little long sharp loaded open"
)
_BEFORE_A_NOUN = frozenset(_FILLERS.split(" "))
_AUXILIARY = frozenset({"be", "have"})


def negation_of(tokens: Sequence[Token], way: Way) -> str | None:
    """Return the cue that takes back a match, or None; ``way`` is where its words stand.

    Cues that the match itself holds (a keyword "no helmet") are no negation of it.
    """
    begin = way[0][0]
    for at in range(begin - 1, max(-1, begin - 1 - _FURTHEST), -1):
        if tokens[at].clause != tokens[begin].clause:
            break
        if cue := _cue_before(tokens, at, begin):
            return cue
    for (_, since), (begin, end) in pairwise(way):
        for at in range(begin, end):
            if tokens[at].form.endswith("n't"):  # "a car isn't hit", of "car ... be hit"
                return tokens[at].form
        for at in range(since, begin):
            if tokens[at].clause == tokens[begin].clause and (
                cue := _cue_between(tokens, at, begin)
            ):
                return cue
    return None


def _cue_before(tokens: Sequence[Token], at: int, begin: int) -> str | None:
    """The cue at token ``at`` whose reach goes as far as ``begin``."""
    for words, end in _cues_at(tokens, at, begin):
        between = tokens[end:begin]
        if len(between) <= _REACH[words] and not _is_done(tokens, at, words, between):
            return _written(tokens, at, end)
    return None


def _is_done(
    tokens: Sequence[Token], at: int, words: tuple[str, ...], between: Sequence[Token]
) -> bool:
    """Whether the cue was about something that a man has or not: "with no shirt is fighting"."""
    had = words == ("without",) or (at > 0 and tokens[at - 1].form == "with")
    return had and any(not _AUXILIARY.isdisjoint(token.lemmas) for token in between)


def _cue_between(tokens: Sequence[Token], at: int, begin: int) -> str | None:
    """The cue at token ``at``, between two words of a match, about the one at ``begin``."""
    for words, end in _cues_at(tokens, at, begin):
        others = [token for token in tokens[end:begin] if token.form not in _BEFORE_A_NOUN]
        if len(others) <= (words not in _OF_NOUNS) and not _is_a_verb(tokens, at, begin):
            return _written(tokens, at, end)
    return None


def _is_a_verb(tokens: Sequence[Token], at: int, begin: int) -> bool:
    """Whether what follows "a toy" cannot be a noun: "a boy with a toy falls"."""
    one = at > 0 and tokens[at - 1].form in {"a", "an"}
    return one and tokens[begin].form.endswith(("s", "ing"))


def _cues_at(tokens: Sequence[Token], at: int, begin: int) -> Iterator[tuple[tuple[str, ...], int]]:
    """Cues that begin at token ``at`` and end before ``begin``, with the token after them."""
    if tokens[at].form.endswith("n't"):
        yield ("not",), at + 1
    for words in _REACH:
        end = at + len(words)
        if end <= begin and all(
            word in token.lemmas for word, token in zip(words, tokens[at:end], strict=True)
        ):
            yield words, end


def _written(tokens: Sequence[Token], at: int, end: int) -> str:
    return " ".join(token.form for token in tokens[at:end])
