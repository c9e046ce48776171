"""Synonyms and broader terms: what a keyword's word stands for.

A lexicon file has two parts. ``synonyms`` are groups of which any member stands for all of them;
``covers`` gives a broader term what lies under it, not the other way round: ``vehicle`` finds
"car", ``car`` does not find "truck". Rules files may add to the shipped lexicon.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from pydantic import Field

from pipeline.rules.tokens import lemma_of
from pipeline.yaml_models import Strict, load_yaml_model

__all__ = ["SHIPPED_LEXICON", "Lexicon", "LexiconFile", "shipped_lexicon"]

SHIPPED_LEXICON = Path(__file__).with_name("lexicon.yaml")


class LexiconFile(Strict):
    """Schema of a lexicon: every entry is a word or a phrase; ``=form`` means that form only."""

    synonyms: tuple[tuple[str, ...], ...] = ()
    covers: dict[str, tuple[str, ...]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Lexicon:
    """Terms and what they stand for, ready to look up by lemma."""

    entries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, files: Iterable[LexiconFile]) -> Lexicon:
        """Join lexicon files; later ones add to earlier ones."""
        entries: dict[str, tuple[str, ...]] = {}
        for file in files:
            for group in file.synonyms:
                for term in group:
                    _add(entries, term, group)
            for term, narrower in file.covers.items():
                _add(entries, term, narrower)
        return cls(entries)

    def expand(self, term: str) -> tuple[str, ...]:
        """Give the term and everything it stands for, each once, the term first.

        A word that is also a broader term brings what lies under it: ``person`` -> ``man`` ->
        ``policeman``. Cycles (synonyms) end by themselves.
        """
        found = [term]
        for current in found:
            for below in self.entries.get(_key(current), ()):
                if below not in found:
                    found.append(below)
        return tuple(found)


def _add(entries: dict[str, tuple[str, ...]], term: str, below: tuple[str, ...]) -> None:
    key = _key(term)
    entries[key] = entries.get(key, ()) + below


def _key(term: str) -> str:
    if term.startswith("="):
        return term
    return " ".join(lemma_of(word) for word in term.lower().split())


@lru_cache(maxsize=1)
def shipped_lexicon() -> LexiconFile:
    """Read the lexicon that comes with Watchword."""
    return load_yaml_model(SHIPPED_LEXICON, LexiconFile, environment={})
