"""What the captioner child fills into captions for the rules, and how it is started again."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_stages import Frames

from pipeline.batcher import Batch
from pipeline.captioner import CaptionerProcess, CaptionerStage
from pipeline.captioner_evidence import EvidenceSource
from pipeline.captioner_messages import CaptionerOptions
from pipeline.ledger import Ledger
from pipeline.messages import Concept, FrameRef, FrameStamp, Region
from pipeline.restarts import RestartBudget

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


class Loaded:
    """As much of a model as a start asks for."""

    input_size, identity, device, runtime = 8, "fake", "cpu", "none"


def dies_the_second_time(model: str, **_: object) -> Loaded:
    """In the child; ``model`` is a file in which the starts are counted."""
    with Path(model).open("a") as starts:
        starts.write("x")
    if Path(model).read_text() == "xx":
        os._exit(137)  # as a process that the kernel ends for want of memory
    return Loaded()


@pytest.mark.fault
def test_a_captioner_that_dies_while_it_is_started_again_is_started_once_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    starts = tmp_path / "starts"
    options = CaptionerOptions(f"{__name__}:dies_the_second_time", str(starts))
    process = CaptionerProcess(options, 30.0)
    stage = CaptionerStage(process, Frames(), Ledger(), RestartBudget(5, 60.0))
    stamp = FrameStamp("c", 0, datetime.now(timezone.utc), 0)
    try:
        stage.ready = process.start()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        batch = Batch((FrameRef(stamp, 0, 1, 1),), (False,))
        assert list(stage.process([batch])) == []
    finally:
        process.kill()
    assert starts.read_text() == "xxx"
    assert stage.ready is not None
    assert "ended while loading its model" in caplog.text
