"""Words of a caption with their lemmas and places, so that ``fight`` finds "fighting".

Lemmas come from simplemma's dictionaries. One form can belong to several lemmas ("lay" to *lie*
and *lay*, "beating" to *beat* and *beating*), so a token carries a set, and the lexicon says
which reading a rule wants.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import simplemma

__all__ = ["Token", "lemma_of", "lemmas_of", "tokenise"]

_WORD = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)|\d+|[^\W\d_]+(?:['’][^\W\d_]+)*")
_SENTENCE_END = re.compile(r"[.;!?\n。；]")
_CLAUSE_END = re.compile(r"[.,;:!?\n()。，；—]")
_CLAUSE_WORDS = frozenset({"but", "while", "although", "however"})

# What simplemma's English dictionary gets wrong or reads one way only.
_EXCEPTIONS: dict[str, tuple[str, ...]] = {
    "axes": ("axe",),
    "bent": ("bend", "bent"),
    "bit": ("bit", "bite"),
    "bleeding": ("bleed",),
    "bound": ("bind", "bound"),
    "broke": ("break", "broke"),
    "crashing": ("crash",),
    "fleeing": ("flee",),
    "ground": ("ground",),
    "laid": ("lay",),
    "lay": ("lie", "lay"),
    "left": ("leave", "left"),
    "people": ("person", "people"),
    "setting": ("set", "setting"),
    "shook": ("shake",),
    "shot": ("shot", "shoot"),
    "thieves": ("thief",),
    "wound": ("wound",),
    "wounded": ("wound",),
}


@dataclass(frozen=True, slots=True)
class Token:
    """One word: its lower-case form, the lemmas it may stand for, and where it is.

    ``start`` and ``end`` are character offsets in the text (end exclusive); ``sentence`` and
    ``clause`` count from 0 and tell which words belong together.
    """

    form: str
    lemmas: frozenset[str]
    start: int
    end: int
    sentence: int
    clause: int


@lru_cache(maxsize=64)
def tokenise(text: str) -> tuple[Token, ...]:
    """Split a text into tokens, 2.5 kB a text.

    The result is cached, since all rules ask for one caption and its beams in turn; what they found
    in older texts each of them remembers itself, in a twentieth of that.
    """
    return tuple(_tokens(text))


def _tokens(text: str) -> Iterator[Token]:
    sentence = clause = previous = 0
    for match in _WORD.finditer(text):
        between = text[previous : match.start()]
        form = match[0].lower().replace("’", "'").removesuffix("'s")
        sentence += _SENTENCE_END.search(between) is not None
        clause += _CLAUSE_END.search(between) is not None or form in _CLAUSE_WORDS
        yield Token(form, lemmas_of(form), match.start(), match.end(), sentence, clause)
        previous = match.end()


@lru_cache(maxsize=20_000)
def lemma_of(form: str) -> str:
    """Return the one lemma a keyword's word stands for ("fighting" -> "fight")."""
    if form in _EXCEPTIONS:
        return _EXCEPTIONS[form][0]
    lemma = str(simplemma.lemmatize(form, lang="en")).lower()
    return _verb_of(form) or lemma if lemma == form else lemma


@lru_cache(maxsize=20_000)
def lemmas_of(form: str) -> frozenset[str]:
    """Every lemma a form in a caption may stand for, the form itself among them."""
    found = {form, lemma_of(form), *_EXCEPTIONS.get(form, ())}
    return frozenset(found)


def _verb_of(form: str) -> str | None:
    """Verb behind an -ing form that the dictionary knows as a noun ("beating" -> "beat")."""
    if not form.endswith("ing") or len(form) < 6:
        return None
    stem = form[:-3]
    undoubled = stem[:-1] if stem[-1] == stem[-2] else None
    for candidate in (stem + "e", stem, undoubled):
        if candidate and simplemma.is_known(candidate, lang="en"):
            return candidate
    return None
