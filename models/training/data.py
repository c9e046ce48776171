"""Batches of maps with their captions, in an order fixed by seed and epoch."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.training.sources import Sample
from models.vocabulary import BEGIN, END, PAD, Vocabulary

__all__ = ["LONGEST", "Batches", "MapSource", "TrainingBatch", "alike", "caption_tensor", "maps_of"]


LONGEST = 20
"""Tokens of the longest caption that is learnt, with begin and end."""


class MapSource(Protocol):
    """Where maps of the frozen lower encoder come from: a cache, or pictures in memory.

    ``views`` is how many views there are of each key.
    """

    @property
    def views(self) -> int:
        """How many views there are of each key; 0 is the picture as it is, 1 its mirror image."""

    def frame_count(self, key: str) -> int:
        """How many frames a key has."""

    def maps(self, keys: Sequence[str], views: Sequence[int]) -> Tensor:
        """Maps (N, T, C, H, W) float32 of keys with equally many frames, each in its view."""


@dataclass(frozen=True)
class TrainingBatch:
    """Clips of one length: maps (N, T, C, H, W), mask (N, T), tokens (N, K, L), samples."""

    maps: Tensor
    mask: Tensor
    tokens: Tensor
    samples: tuple[Sample, ...]


class Batches:
    """Every sample once, grouped so that no batch needs padding, in random order and view.

    Several processes that train together each take every ``count``-th batch, and equally many.
    With a ``length`` all captions are padded to it, so that few shapes of batches come.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        source: MapSource,
        vocabulary: Vocabulary,
        batch_clips: int,
        order: random.Random,
        share: tuple[int, int] = (0, 1),
        length: int | None = None,
    ) -> None:
        self._source, self._vocabulary, self._order = source, vocabulary, order
        self._length = length
        rank, count = share
        chunks = _chunks(samples, source, batch_clips, order)
        self._chunks = chunks[rank : len(chunks) // count * count : count]

    def __len__(self) -> int:
        """How many batches there are."""
        return len(self._chunks)

    def __iter__(self) -> Iterator[TrainingBatch]:
        """Load one batch after the other."""
        for chunk in self._chunks:
            views = [self._order.randrange(self._source.views) for _ in chunk]
            maps = maps_of(chunk, self._source, views)
            captions = [sample.captions for sample in chunk]
            tokens = caption_tensor(captions, self._vocabulary, self._length)
            mask = torch.ones(maps.shape[:2], dtype=torch.bool)
            yield TrainingBatch(maps, mask, tokens, tuple(chunk))


def _chunks(
    samples: Sequence[Sample], source: MapSource, batch_clips: int, order: random.Random
) -> list[list[Sample]]:
    chunks = alike(samples, source, lambda frames: max(1, batch_clips // frames), order)
    order.shuffle(chunks)
    return chunks


def alike(
    samples: Sequence[Sample],
    source: MapSource,
    size: Callable[[int], int],
    order: random.Random | None = None,
) -> list[list[Sample]]:
    """Groups of samples with equally many frames and captions, so that none needs padding.

    Args:
        samples: Each comes in one group.
        source: Knows how many frames a sample has.
        size: The most samples of a group, by their number of frames.
        order: Shuffles samples that are alike; without it they stay as they come.

    """
    kinds: dict[tuple[int, int], list[Sample]] = defaultdict(list)
    for sample in samples:
        kinds[source.frame_count(sample.key), len(sample.captions)].append(sample)
    groups: list[list[Sample]] = []
    for (frames, _), kind in kinds.items():
        if order is not None:
            order.shuffle(kind)
        most = size(frames)
        groups += [kind[i : i + most] for i in range(0, len(kind), most)]
    return groups


def maps_of(samples: Sequence[Sample], source: MapSource, views: Sequence[int]) -> Tensor:
    """Maps (N, T, C, H, W) float32 of samples with the same number of frames."""
    return source.maps([sample.key for sample in samples], views)


def caption_tensor(
    captions: Sequence[Sequence[str]], vocabulary: Vocabulary, length: int | None = None
) -> Tensor:
    """Tokens (N, K, L) with begin and end, padded to ``length`` or to the longest of them.

    Captions of more than 18 words are cut.
    """
    encoded = [
        [[BEGIN, *vocabulary.encode(text)[: LONGEST - 2], END] for text in texts]
        for texts in captions
    ]
    length = length or max(len(tokens) for texts in encoded for tokens in texts)
    result = torch.full((len(encoded), len(encoded[0]), length), PAD)
    for i, texts in enumerate(encoded):
        for k, tokens in enumerate(texts):
            result[i, k, : len(tokens)] = torch.tensor(tokens)
    return result
