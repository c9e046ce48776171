"""Agreement: which of the captions found names what the visual concepts see.

Fang et al. 2015, From Captions to Visual Concepts and Back, section 5, re-rank a beam's captions
with, among others, the words that their detector is sure of: the decoder knows what people say,
the concept head what is there (docs/adr/0032-concept-agreement.md). What else a caption is chosen
by stands in :mod:`models.preference`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.vocabulary import Vocabulary

__all__ = ["ConceptAgreement", "ConceptLexicon"]


@dataclass(frozen=True)
class ConceptLexicon:
    """What is said of concepts, one entry each, in the order of the concept head.

    Attributes:
        words: The words of the vocabulary that name it; none for a concept no word stands for.
        shares: The share of training pictures that show it, between 0 and 1.

    """

    words: tuple[tuple[str, ...], ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raise ValueError for a lexicon that contradicts itself."""
        if len(self.words) != len(self.shares):
            raise ValueError(f"words of {len(self.words)} concepts, shares of {len(self.shares)}")
        if not all(0 < share < 1 for share in self.shares):
            raise ValueError("a concept's share of the pictures lies between 0 and 1")
        every = [word for words in self.words for word in words]
        if len(set(every)) != len(every):
            raise ValueError("a word names two concepts")

    def lines(self) -> list[str]:
        """Write it, a line a concept: its share, and its words."""
        return [
            " ".join((f"{min(share, 0.9999):.4g}", *words))  # rounded to 1 it could not be read
            for share, words in zip(self.shares, self.words, strict=True)
        ]

    @classmethod
    def read(cls, lines: Iterable[str]) -> ConceptLexicon:
        """Read what :meth:`lines` wrote; raises ValueError for anything else."""
        entries = [line.split(" ") for line in lines]
        return cls(
            tuple(tuple(words) for _, *words in entries),
            tuple(float(share) for share, *_ in entries),
        )


class ConceptAgreement:
    """How well what a caption names agrees with what a clip is expected to show, 0 to 1.

    With C the concepts that a caption names, p(c) the probability of a concept and v(c) what it
    tells, -log of its share of the training pictures, the mean of their Dice coefficient and the
    cosine between them,

        2 sum_C v(c) p(c) / (sum_C v(c) + sum_all v(c) p(c))    and
        sum_C v(c)^2 p(c) / (sqrt(sum_C v(c)^2) sqrt(sum_all (v(c) p(c))^2)):

    1 for a caption that names all that is there and nothing else, 0 for one that names none of
    it. Concepts that no word stands for are left out.
    """

    def __init__(self, lexicon: ConceptLexicon, vocabulary: Vocabulary) -> None:
        self._concept = {
            token: concept
            for concept, words in enumerate(lexicon.words)
            for word in words
            if word in vocabulary
            for token in vocabulary.encode(word)
        }
        self._tells = np.zeros(len(lexicon.words))
        for concept in set(self._concept.values()):
            self._tells[concept] = -math.log(lexicon.shares[concept])

    def __call__(
        self, captions: Sequence[Sequence[int]], probabilities: NDArray[np.float32]
    ) -> list[float]:
        """Agreement of a clip's captions with the probability of each concept, (W,)."""
        expected = self._tells * probabilities
        total, length = float(expected.sum()), math.hypot(*expected)
        return [self._of(tokens, expected, total, length) for tokens in captions]

    def _of(
        self, tokens: Sequence[int], expected: NDArray[np.float64], total: float, length: float
    ) -> float:
        named = list({self._concept[token] for token in tokens if token in self._concept})
        tells, there = self._tells[named], expected[named]
        weight, lengths = float(tells.sum()) + total, math.hypot(*tells) * length
        if weight <= 0 or lengths <= 0:
            return 0.0
        return float(there.sum()) / weight + float(tells @ there) / lengths / 2
