"""Captioners for the child process to load: each has one fault; none needs torch."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SIDE = 8


@dataclass(frozen=True)
class FakeWord:
    text: str
    probability: float = 0.5
    attention: None = None


@dataclass(frozen=True)
class FakeHypothesis:
    text: str
    words: tuple[FakeWord, ...]
    finished: bool = True
    log_probability: float = -1.0
    alternatives: tuple[Any, ...] = ()


@dataclass
class FakeCaptioner:
    """Says the brightness of each window's frames."""

    input_size: int = SIDE
    identity: str = "fake"
    device: str = "cpu"
    runtime: str = "none"
    most: int = 1000
    calls: list[int] = field(default_factory=list)

    def encode(self, frames: np.ndarray) -> np.ndarray:
        self._admit(len(frames))
        return frames.reshape(len(frames), -1)[:, :1]

    def coloured(self, frames: np.ndarray) -> list[bool]:
        return [True] * len(frames)

    def spot(self, frame: np.ndarray) -> None:
        return None

    def prepare(self, windows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        return windows

    def decode(
        self, windows: list[tuple[Any, ...]], *, beam_size: int, max_words: int
    ) -> list[FakeHypothesis]:
        self._admit(len(windows))
        return [self.say([str(int(one[0])) for one in features]) for features, *_ in windows]

    def say(self, words: list[str]) -> FakeHypothesis:
        return FakeHypothesis(" ".join(words), tuple(map(FakeWord, words)))

    def _admit(self, count: int) -> None:
        self.calls.append(count)
        if count > self.most:
            raise MemoryError(f"no room for {count}")


class Unsure(FakeCaptioner):
    """Finds no end where it is dark, and no words at all where it is black."""

    def say(self, words: list[str]) -> FakeHypothesis:
        last = int(words[-1])
        said = words if last else []
        return FakeHypothesis(" ".join(said), tuple(map(FakeWord, said)), finished=last > 100)


class Hanging(FakeCaptioner):
    """Stops its own process at a white frame."""

    def encode(self, frames: np.ndarray) -> np.ndarray:
        if frames.max() == 255:
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().encode(frames)


def plain(model: str, device: str, runtime: str) -> FakeCaptioner:
    return FakeCaptioner()


def cramped(model: str, device: str, runtime: str) -> FakeCaptioner:
    return FakeCaptioner(most=3)


def unsure(model: str, device: str, runtime: str) -> FakeCaptioner:
    return Unsure()


def hanging(model: str, device: str, runtime: str) -> FakeCaptioner:
    return Hanging()


class Slow(FakeCaptioner):
    """Takes its time, and says what is seen by the brightness of a window's last frame."""

    SAYINGS = ("a man walks", "a man is walking", "two cars crash", "a car on a street")

    def decode(
        self, windows: list[tuple[Any, ...]], *, beam_size: int, max_words: int
    ) -> list[FakeHypothesis]:
        time.sleep(0.05 * len(windows))
        last = [int(np.sum([one[0] for one in features])) for features, *_ in windows]
        return [self.say(self.SAYINGS[level // 3 % len(self.SAYINGS)].split()) for level in last]


class Spotting(FakeCaptioner):
    """Says what it was given to see closer."""

    def spot(self, frame: np.ndarray) -> int:
        return int(frame.mean())

    def decode(
        self, windows: list[tuple[Any, ...]], *, beam_size: int, max_words: int
    ) -> list[FakeHypothesis]:
        return [self.say([str(spot)]) for *_, spot in windows]


def spotting(model: str, device: str, runtime: str) -> FakeCaptioner:
    return Spotting()


class Ponderous(FakeCaptioner):
    """Takes a second over everything, and longer than any measurement at the start has shown."""

    def decode(
        self, windows: list[tuple[Any, ...]], *, beam_size: int, max_words: int
    ) -> list[FakeHypothesis]:
        time.sleep(1.0)
        return super().decode(windows, beam_size=beam_size, max_words=max_words)


def ponderous(model: str, device: str, runtime: str) -> FakeCaptioner:
    return Ponderous()


def slow(model: str, device: str, runtime: str) -> FakeCaptioner:
    return Slow()


def never_loads(model: str, device: str, runtime: str) -> FakeCaptioner:
    """Say that loading has begun, and stay there for an hour."""
    print("loading", flush=True)
    time.sleep(3600)
    return FakeCaptioner()
