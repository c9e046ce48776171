"""What takes a keyword back: "no fire", "without a weapon", "pretending to fight", "fake gun".

A cue takes back what follows it within its reach (in words) and within its clause; "no sign of
smoke or fire" takes back both. Things that merely end ("the fight stops") are not negations.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def negation_of(tokens: Sequence[Token], begin: int) -> str | None:
    """Return the cue that takes back the match beginning at token ``begin``, or None."""
    clause = tokens[begin].clause
    for at in range(begin - 1, max(-1, begin - 1 - _FURTHEST), -1):
        if tokens[at].clause != clause:
            return None
        cue = _cue_at(tokens, at, begin)
        if cue is not None:
            return cue
    return None


def _cue_at(tokens: Sequence[Token], at: int, begin: int) -> str | None:
    if tokens[at].form.endswith("n't") and begin - at - 1 <= _REACH[("not",)]:
        return tokens[at].form
    for words, reach in _REACH.items():
        end = at + len(words)
        if end > begin or begin - end > reach:
            continue
        if all(word in token.lemmas for word, token in zip(words, tokens[at:end], strict=True)):
            return " ".join(words)
    return None
