"""What rules ask of a model beside its captions, in the captioner child: concepts and probes.

Both are the model's own choice to give: a captioner without :class:`Detects` or :class:`Scores`
leaves captions without that evidence, and rules then go by words alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pipeline.attention import region_of
from pipeline.messages import Concept

__all__ = ["Detects", "EvidenceSource", "Scores", "WindowEvidence"]

FeatureWindows = Any
"""Windows as the captioner's own ``prepare`` gives them; they have a length."""


@runtime_checkable
class Detects(Protocol):
    """A captioner with a visual-concept detector; ``concept_words`` are all that it knows."""

    concept_words: Sequence[str]

    def detect_windows(self, windows: FeatureWindows, words: Sequence[str]) -> tuple[Any, Any]:
        """Return probabilities (N, n) and maps (N, n, T, rows, columns) of where, oldest first."""


@runtime_checkable
class Scores(Protocol):
    """A captioner that weighs sentences: log P(sentence | window) - log P(sentence), in nats."""

    def score_windows(self, windows: FeatureWindows, sentences: Sequence[str]) -> Any:
        """Return evidence in nats, (N, n)."""


@dataclass(frozen=True, slots=True)
class WindowEvidence:
    """One window's ``Caption.concepts`` and ``Caption.scores``."""

    concepts: Mapping[str, Concept] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


class EvidenceSource:
    """Asks one captioner for a fixed list of words and sentences, as far as it can give them."""

    def __init__(self, captioner: object, words: Sequence[str], sentences: Sequence[str]) -> None:
        self._detector = captioner if isinstance(captioner, Detects) else None
        self._scorer = captioner if isinstance(captioner, Scores) else None
        known = frozenset(self._detector.concept_words if self._detector else ())
        self._words = tuple(word for word in words if word in known)
        self._sentences = tuple(sentences) if self._scorer else ()
        self.unknown = tuple(word for word in words if word not in known)
        """Words that no caption will have a probability of."""

    def of(self, windows: FeatureWindows) -> list[WindowEvidence]:
        """Evidence of each window, in order."""
        concepts, scores = self._concepts(windows), self._scores(windows)
        return [WindowEvidence(c, s) for c, s in zip(concepts, scores, strict=True)]

    def _concepts(self, windows: FeatureWindows) -> list[dict[str, Concept]]:
        if self._detector is None or not self._words or not len(windows):
            return [{} for _ in range(len(windows))]
        probabilities, maps = self._detector.detect_windows(windows, self._words)
        rows = zip(_array(probabilities), _array(maps), strict=True)
        return [
            {
                word: Concept(float(min(1.0, max(0.0, probability))), region_of(where))
                for word, probability, where in zip(self._words, row, places, strict=True)
            }
            for row, places in rows
        ]

    def _scores(self, windows: FeatureWindows) -> list[dict[str, float]]:
        if self._scorer is None or not self._sentences or not len(windows):
            return [{} for _ in range(len(windows))]
        nats = _array(self._scorer.score_windows(windows, self._sentences))
        return [dict(zip(self._sentences, map(float, row), strict=True)) for row in nats]


def _array(values: Any) -> NDArray[np.float32]:
    """Copy a tensor of any device, or an array, to float32."""
    on_host = values.float().cpu().numpy() if hasattr(values, "cpu") else values
    return np.asarray(on_host, dtype=np.float32)
