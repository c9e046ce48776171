"""Minimum Bayes risk: the caption that the other captions agree with most.

Kumar and Byrne 2004, Minimum Bayes-Risk Decoding; for captions Devlin et al. 2015, Exploring
Nearest Neighbor Approaches for Image Captioning, who call it the consensus caption.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

__all__ = ["consensus_order"]

Grams = list[Counter[tuple[int, ...]]]

_LONGEST_GRAM = 4


def consensus_order(captions: Sequence[Sequence[int]], weights: Sequence[float]) -> list[int]:
    """Order captions by their expected agreement with the others, best first.

    Args:
        captions: Token sequences.
        weights: How much each counts as a reference, the posterior of the hypotheses; ties keep
            the order given.

    """
    grams = [_grams(caption) for caption in captions]
    expected = [
        sum(weight * _agreement(mine, other) for weight, other in zip(weights, grams, strict=True))
        for mine in grams
    ]
    return sorted(range(len(captions)), key=lambda index: -expected[index])


def _agreement(
    one: Sequence[Counter[tuple[int, ...]]], other: Sequence[Counter[tuple[int, ...]]]
) -> float:
    """Mean F1 of the n-grams of two captions, n = 1 .. 4; 1 for equal ones, 0 for strangers."""
    scores = []
    for mine, theirs in zip(one, other, strict=True):
        total = mine.total() + theirs.total()
        if total:
            scores.append(2 * (mine & theirs).total() / total)
    return sum(scores) / len(scores) if scores else 1.0


def _grams(tokens: Sequence[int]) -> Grams:
    words = tuple(tokens)
    return [
        Counter(words[i : i + n] for i in range(len(words) - n + 1))
        for n in range(1, _LONGEST_GRAM + 1)
    ]
