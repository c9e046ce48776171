"""What the captioner child fills into captions for the rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pipeline.captioner_evidence import EvidenceSource
from pipeline.messages import Concept, Region

WINDOWS: list[tuple[Any, Sequence[float]]] = [(None, [0.0]), (None, [1.0])]


class Full:
    concept_words = ("fire", "gun")

    def detect_windows(self, windows: Any, words: Sequence[str]) -> tuple[Any, Any]:
        assert list(words) == ["fire"]
        maps = np.zeros((len(windows), 1, 1, 2, 2))
        maps[0, 0, 0, 1, 0] = 1.0
        return np.array([[0.75], [0.25]]), maps

    def score_windows(self, windows: Any, sentences: Sequence[str]) -> Any:
        return np.arange(len(windows))[:, None] + np.arange(len(sentences))


def test_known_words_and_sentences_are_asked_and_unknown_words_named() -> None:
    source = EvidenceSource(Full(), ["fire", "blaze"], ["one", "two"])
    first, second = source.of(WINDOWS)
    assert source.unknown == ("blaze",)
    assert first.concepts == {"fire": Concept(0.75, Region(0.0, 0.5, 0.5, 0.5))}
    assert second.concepts == {"fire": Concept(0.25)}
    assert second.scores == {"one": 1.0, "two": 2.0}


@pytest.mark.parametrize("words", [(), ("fire",)])
def test_a_captioner_without_either_gives_nothing_and_says_so(words: tuple[str, ...]) -> None:
    source = EvidenceSource(object(), words, ["one"])
    assert source.unknown == words
    assert [(e.concepts, e.scores) for e in source.of(WINDOWS)] == [({}, {})] * 2


def test_nothing_asked_costs_nothing() -> None:
    class Costly(Full):
        def detect_windows(self, windows: Any, words: Sequence[str]) -> tuple[Any, Any]:
            raise AssertionError

        score_windows = detect_windows

    assert len(EvidenceSource(Costly(), (), ()).of(WINDOWS)) == 2
