"""Preference: which of the captions that a search found is the best to read.

They are nearly as likely as one another and worth very different things. As Fang et al. 2015, From
Captions to Visual Concepts and Back, section 5, a few weighted features order them; the weights
were fitted for CIDEr and BLEU-4 on validation pictures (docs/adr/0034-choice-among-captions.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from models.concept_agreement import ConceptAgreement, ConceptLexicon
from models.search import Hypothesis
from models.vocabulary import UNKNOWN, Vocabulary

__all__ = ["BY_SCORE", "PREFERENCE", "CaptionChooser", "Preference"]


@dataclass(frozen=True)
class Preference:
    """What a caption is given, or has taken off, beside its score; all in nats of score.

    Attributes:
        agreement: Given for full agreement with the visual concepts
            (:class:`models.concept_agreement.ConceptAgreement`).
        rarity: Taken off for rare words: for each nat of the mean log of its words' places in the
            vocabulary, the most frequent word at place 1.
        repetition: Taken off for each word that the caption has said before.
        weakest: Share of the log-probability of the least probable word that counts once more.

    """

    agreement: float = 16.0
    rarity: float = 4.0
    repetition: float = 0.7
    weakest: float = 1.2

    def __post_init__(self) -> None:
        """Raise ValueError for a weight that is negative or no number."""
        if not all(0 <= weight < math.inf for weight in astuple(self)):
            raise ValueError(f"the weights of a preference are 0 or more, not {astuple(self)}")


PREFERENCE = Preference()
"""As fitted on validation pictures."""

BY_SCORE = Preference(0.0, 0.0, 0.0, 0.0)
"""The order of the search: by score alone."""


class CaptionChooser:
    """Orders what a search found of one clip by score and preference."""

    def __init__(self, lexicon: ConceptLexicon, vocabulary: Vocabulary) -> None:
        self._agreement = ConceptAgreement(lexicon, vocabulary)
        places = (max(1, token - UNKNOWN) for token in range(len(vocabulary)))
        self._rarity = [math.log(place) for place in places]

    def order(
        self,
        paths: Sequence[Hypothesis],
        probabilities: NDArray[np.float32],
        preference: Preference,
    ) -> list[Hypothesis]:
        """Order by worth, best first; the finished stay before the others.

        Ties keep the order given. Scores and log-probabilities stay the search's own.

        Args:
            paths: What was found of one clip.
            probabilities: Of each concept in it, (W,).
            preference: What is preferred.

        """
        agreements = self._agreement([path.tokens for path in paths], probabilities)
        worths = [
            self._worth(path, agreement, preference)
            for path, agreement in zip(paths, agreements, strict=True)
        ]
        order = sorted(range(len(paths)), key=lambda i: (not paths[i].finished, -worths[i]))
        return [paths[i] for i in order]

    def _worth(self, path: Hypothesis, agreement: float, preference: Preference) -> float:
        tokens = path.tokens
        rarity = sum(self._rarity[token] for token in tokens) / max(1, len(tokens))
        return (
            path.score
            + preference.agreement * agreement
            - preference.rarity * rarity
            - preference.repetition * (len(tokens) - len(set(tokens)))
            + preference.weakest * min(path.word_log_probs, default=0.0)
        )
