"""Concept vocabulary: what a checkpoint knows of its visual concepts, beside the concept head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from models.claims import CLAIMS
from models.concept_agreement import ConceptLexicon
from models.grounding import Thresholds

__all__ = ["NO_CONCEPTS", "ConceptVocabulary"]


@dataclass(frozen=True)
class ConceptVocabulary:
    """The concepts of a head, what is said of them, and when captions must agree with them.

    Attributes:
        words: The concepts, lemmas, in the order of the head; none for a model without one.
        lexicon: What is said of each, in the same order; None where the checkpoint does not tell.
        thresholds: By hazard, and of people, the probabilities that captions are held against;
            copied, and read-only.

    """

    words: tuple[str, ...] = ()
    lexicon: ConceptLexicon | None = None
    thresholds: Mapping[str, Thresholds] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError for a vocabulary that contradicts itself."""
        if len(set(self.words)) != len(self.words):
            raise ValueError("a concept stands twice among the concept words")
        if self.lexicon and len(self.lexicon.words) != len(self.words):
            raise ValueError(
                f"a lexicon of {len(self.lexicon.words)} concepts for {len(self.words)}"
            )
        if unknown := sorted(self.thresholds.keys() - CLAIMS.keys()):
            raise ValueError(f"thresholds of {unknown[0]!r}, which is none of {', '.join(CLAIMS)}")
        object.__setattr__(self, "thresholds", MappingProxyType(dict(self.thresholds)))


NO_CONCEPTS = ConceptVocabulary()
"""Of a model without a concept head."""
