"""Numbers as captions write them: digits, words, and vague quantities with a lower bound."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.rules.tokens import Token

__all__ = ["least_number_at", "number_at"]

_UP_TO_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
_WORDS = {word: number for number, word in enumerate(_UP_TO_TWENTY.split(" "))} | {
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "hundred": 100,
    "dozen": 12,
}

# The least that people mean by these words.
_VAGUE: dict[tuple[str, ...], int] = {
    ("a", "couple", "of"): 2,
    ("a", "pair", "of"): 2,
    ("both",): 2,
    ("a", "few"): 3,
    ("several",): 3,
    ("multiple",): 3,
    ("a", "group", "of"): 3,
    ("group", "of"): 3,
    ("many",): 5,
    ("lots", "of"): 5,
    ("a", "lot", "of"): 5,
    ("a", "large", "group", "of"): 8,
    ("a", "large", "number", "of"): 8,
    ("a", "crowd", "of"): 10,
    ("crowd", "of"): 10,
    ("crowds", "of"): 10,
    ("a", "dozen"): 12,
    ("dozens", "of"): 24,
    ("hundreds", "of"): 200,
}
_LONGEST = max(map(len, _VAGUE))
_AT_MOST = frozenset({("less", "than"), ("fewer", "than"), ("at", "most"), ("up", "to")})


def least_number_at(tokens: Sequence[Token], at: int) -> tuple[int, int] | None:
    """Read the least that a number at token ``at`` stands for, by what is written before it.

    (number, token after it), or None where there is no number, or only a most: "less than three".
    """
    found = number_at(tokens, at)
    if found is None:
        return None
    number, after = found
    before = tuple(token.form for token in tokens[max(0, at - 2) : at])
    if before in _AT_MOST:
        return None
    if before == ("more", "than"):
        return number + 1, after
    if before[1:] in (("or",), ("to",)):  # "two or three people" may be two
        lower = number_at(tokens, at - 2)
        number = number if lower is None else min(lower[0], number)
    return number, after


def number_at(tokens: Sequence[Token], at: int) -> tuple[int, int] | None:
    """Read a number at token ``at``: (number, token after it), or None where there is none."""
    forms = tuple(token.form for token in tokens[at : at + _LONGEST])
    if not forms:
        return None
    for length in range(len(forms), 0, -1):
        if forms[:length] in _VAGUE:
            return _VAGUE[forms[:length]], at + length
    if forms[0][0].isdecimal():  # not "²", a digit that int() does not read
        return int(forms[0].replace(",", "")), at + 1
    if forms[0] in _WORDS:
        return _WORDS[forms[0]], at + 1
    return None
