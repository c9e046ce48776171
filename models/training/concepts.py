"""Which concepts belong to a captioned clip: lemmas of its words, and its hazard labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.concept_agreement import ConceptLexicon
from models.concepts import concept_lemma
from models.evaluation.hazards import HAZARD_WORDS, names_hazard
from models.training.sources import Sample
from models.vocabulary import Vocabulary, tokenize
from models.wording import FORBIDDEN_WORDS, neutral

__all__ = [
    "HAZARD_CONCEPTS",
    "ConceptLabels",
    "concept_lexicon",
    "concept_loss",
    "concept_words",
    "hazard_labels",
]

HAZARD_CONCEPTS = tuple(HAZARD_WORDS)
"""Concepts that are labelled by what is visible and not only by what a caption names."""

_FUNCTION_TEXT = (
    "a an the this that these those some something someone his her its their him he she it they "
    "them who which what where there here other another each one of in on at to from by with "
    "without for into onto over under through up down off out about near next beside behind "
    "between above below across along around against toward towards while as and or but not no "
    "be do have can very several many much all both away together back whilst few just like same s"
)
_FUNCTION_WORDS = frozenset(_FUNCTION_TEXT.split(" "))


def concept_words(captions: Iterable[str], min_count: int) -> list[str]:
    """Hazards first, then lemmas of content words said at least so often, most frequent first."""
    counts = Counter(lemma for caption in captions for lemma in _lemmas(caption))
    skip = FORBIDDEN_WORDS | set(HAZARD_WORDS)
    words = [word for word, n in counts.most_common() if n >= min_count and word not in skip]
    return [*HAZARD_CONCEPTS, *words]


def concept_lexicon(
    samples: Iterable[Sample], concepts: Sequence[str], vocabulary: Vocabulary
) -> ConceptLexicon:
    """Words of a vocabulary that name each concept, and its share of these pictures.

    A picture shows what one of its captions names.
    """
    known = frozenset(concepts)
    words: dict[str, list[str]] = {concept: [] for concept in concepts}
    for word in vocabulary.said:
        if word not in _FUNCTION_WORDS and (concept := concept_lemma(word)) in known:
            words[concept].append(word)
    counts: Counter[str] = Counter()
    pictures = 0
    for sample in samples:
        if not sample.clip:
            pictures += 1
            counts.update({lemma for text in sample.captions for lemma in _lemmas(neutral(text))})
    # Half a picture more of either kind: what was never seen is rare, not impossible.
    shares = tuple((counts[concept] + 0.5) / (pictures + 1) for concept in concepts)
    return ConceptLexicon(tuple(tuple(words[concept]) for concept in concepts), shares)


class ConceptLabels:
    """Turns samples into targets (N, W) and weights (N, W); weight 0 where nothing is known."""

    def __init__(self, words: Sequence[str], hazard_weight: float) -> None:
        self.words = tuple(words)
        self._index = {word: index for index, word in enumerate(words)}
        self._hazard_weight = hazard_weight
        self._known: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Labels of samples; remembered, since every epoch asks again."""
        pairs = [self._labels(sample) for sample in samples]
        return torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])

    def _labels(self, sample: Sample) -> tuple[Tensor, Tensor]:
        if sample.key not in self._known:
            self._known[sample.key] = self._fresh(sample)
        return self._known[sample.key]

    def _fresh(self, sample: Sample) -> tuple[Tensor, Tensor]:
        target, weight = torch.zeros(len(self.words)), torch.ones(len(self.words))
        for caption in sample.captions:
            for lemma in _lemmas(caption):
                if lemma in self._index:
                    target[self._index[lemma]] = 1.0
        for hazard in HAZARD_CONCEPTS:
            at = self._index[hazard]
            visible = _visible(sample, hazard)
            target[at] = float(visible is True)
            weight[at] = 0.0 if visible is None else self._hazard_weight
        return target, weight


def hazard_labels(sample: Sample) -> dict[str, bool | None]:
    """Whether each hazard is visible; None where neither label nor words tell."""
    return {hazard: _visible(sample, hazard) for hazard in HAZARD_CONCEPTS}


def _visible(sample: Sample, hazard: str) -> bool | None:
    """Whether a hazard is in the picture; None where neither label nor words tell."""
    named = any(names_hazard(caption, hazard) for caption in sample.captions)
    if sample.hazards is not None:
        unknown = f"{hazard}_not_visible" in sample.hazards
        return None if unknown else hazard in sample.hazards
    if hazard in ("person_down", "fight", "crash"):
        # Somebody lies in the grass, boys wrestle for fun, a surfer crashes: no alarm, and yet
        # the words are there. Neither an example nor a counter-example.
        return None if named else False
    return named


def concept_loss(probability: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted binary cross-entropy, summed over words and averaged over clips."""
    probability = probability.float().clamp(1e-6, 1 - 1e-6)
    return F.binary_cross_entropy(probability, target, weight, reduction="sum") / len(target)


def _lemmas(caption: str) -> set[str]:
    content = set(tokenize(caption)) - _FUNCTION_WORDS
    return {concept_lemma(word) for word in content} - _FUNCTION_WORDS
