"""How far runtimes agree with plain PyTorch on the CPU: features, captions, log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.captioner import Captioner, Hypothesis, Window

__all__ = ["Agreement", "Tolerance", "compare", "reference", "synthetic_pictures", "windows_of"]

_LONGEST = 5
_ALONE = 25
"""How many of the windows are also captioned alone, frame by frame."""


@dataclass(frozen=True)
class Tolerance:
    """Least share of equal captions, and most nats between the log P of equal ones."""

    equal: float
    nats: float


@dataclass(frozen=True)
class Agreement:
    """What was found against the reference, and between batches of N and of 1.

    ``cosine`` is the least over frames and regions; ``nats`` the most between log-probabilities of
    equal captions, ``alone_nats`` the same between a caption found in a batch and found alone.
    """

    windows: int
    cosine: float
    equal: float
    nats: float
    alone_equal: float
    alone_nats: float

    def within(self, tolerance: Tolerance) -> bool:
        """Whether both comparisons keep to the tolerance."""
        return (
            min(self.equal, self.alone_equal) >= tolerance.equal
            and max(self.nats, self.alone_nats) <= tolerance.nats
        )

    def row(self, name: str, tolerance: Tolerance) -> dict[str, Any]:
        """Everything as a row of a table, the verdict with it."""
        return {
            "runtime": name,
            **asdict(self),
            **{f"tolerated_{key}": value for key, value in asdict(tolerance).items()},
            "within": self.within(tolerance),
        }


def synthetic_pictures(count: int, side: int) -> NDArray[np.uint8]:
    """Make (count, side, side, 3) pictures: a sloping light, shapes of all sizes, sensor noise."""
    random = np.random.default_rng(7)
    down, across = np.mgrid[0:side, 0:side] / side
    pictures = []
    for _ in range(count):
        angle = random.uniform(0, 2 * np.pi)
        slope = (np.cos(angle) * across + np.sin(angle) * down)[..., None]
        picture = 128 + random.uniform(-60, 60, 3) + slope * random.uniform(-90, 90, 3)
        rough = random.normal(0, 25, (8, 8, 3))
        picture = picture + cv2.resize(rough, (side, side), interpolation=cv2.INTER_CUBIC)
        for _ in range(int(random.integers(2, 9))):
            middle = random.integers(0, side, 2).tolist()
            size = (side * random.uniform(0.02, 0.35, 2)).astype(int).tolist()
            colour = random.uniform(0, 255, 3).tolist()
            if random.random() < 0.5:
                turn = float(random.uniform(0, 180))
                cv2.ellipse(picture, middle, size, turn, 0, 360, colour, -1, cv2.LINE_AA)
            else:
                corner = [a + b for a, b in zip(middle, size, strict=True)]
                cv2.rectangle(picture, middle, corner, colour, -1)
        picture = picture + random.normal(0, random.uniform(1, 8), picture.shape)
        pictures.append(np.clip(picture, 0, 255).astype(np.uint8))
    return np.stack(pictures)


def windows_of(features: Tensor) -> list[Window]:
    """Make a window for each frame: itself and up to four before it, 1 to 5 frames in turn."""
    windows: list[Window] = []
    for last in range(len(features)):
        frames = list(features[last - last % _LONGEST : last + 1])
        windows.append((frames, [0.4 * k for k in range(len(frames))]))
    return windows


def reference(
    captioner: Captioner, pictures: NDArray[np.uint8], beam: int
) -> tuple[Tensor, list[Hypothesis]]:
    """Features and captions of pictures, all in one batch."""
    features = captioner.encode(pictures)
    return features.cpu(), captioner.decode(windows_of(features), beam_size=beam)


def compare(
    captioner: Captioner,
    pictures: NDArray[np.uint8],
    beam: int,
    expected: tuple[Tensor, Sequence[Hypothesis]],
) -> Agreement:
    """Hold a captioner against what :func:`reference` gave, then against itself alone."""
    features, found = reference(captioner, pictures, beam)
    alone = []
    for number in range(min(_ALONE, len(pictures))):
        first = number - number % _LONGEST
        one = torch.cat([captioner.encode(pictures[k : k + 1]) for k in range(first, number + 1)])
        alone += captioner.decode([windows_of(one)[-1]], beam_size=beam)
    cosine = torch.cosine_similarity(features, expected[0], -1)
    return Agreement(
        len(found),
        float(cosine.min()),
        *_close(found, expected[1]),
        *_close(alone, found[: len(alone)]),
    )


def _close(found: Sequence[Hypothesis], expected: Sequence[Hypothesis]) -> tuple[float, float]:
    """Share of equal captions, and the most nats between their log-probabilities."""
    pairs = list(zip(found, expected, strict=True))
    apart = [abs(a.log_probability - b.log_probability) for a, b in pairs if a.text == b.text]
    return len(apart) / len(pairs), max(apart, default=float("nan"))
