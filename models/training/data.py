"""Batches of cached maps with their captions, in an order fixed by seed and epoch."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.training.features import FeatureCache
from models.training.sources import Sample
from models.vocabulary import BEGIN, END, PAD, Vocabulary

__all__ = ["Batches", "TrainingBatch", "caption_tensor", "maps_of"]


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
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        cache: FeatureCache,
        vocabulary: Vocabulary,
        batch_clips: int,
        order: random.Random,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self._cache, self._vocabulary, self._order = cache, vocabulary, order
        rank, count = share
        chunks = _chunks(samples, cache, batch_clips, order)
        self._chunks = chunks[rank : len(chunks) // count * count : count]

    def __len__(self) -> int:
        """How many batches there are."""
        return len(self._chunks)

    def __iter__(self) -> Iterator[TrainingBatch]:
        """Load one batch after the other."""
        for chunk in self._chunks:
            views = [self._order.randrange(self._cache.views) for _ in chunk]
            maps = maps_of(chunk, self._cache, views)
            tokens = caption_tensor([sample.captions for sample in chunk], self._vocabulary)
            mask = torch.ones(maps.shape[:2], dtype=torch.bool)
            yield TrainingBatch(maps, mask, tokens, tuple(chunk))


def _chunks(
    samples: Sequence[Sample], cache: FeatureCache, batch_clips: int, order: random.Random
) -> list[list[Sample]]:
    groups: dict[tuple[int, int], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[cache.index[sample.key][1], len(sample.captions)].append(sample)
    chunks: list[list[Sample]] = []
    for (frames, _), group in groups.items():
        order.shuffle(group)
        size = max(1, batch_clips // frames)
        chunks += [group[i : i + size] for i in range(0, len(group), size)]
    order.shuffle(chunks)
    return chunks


def maps_of(samples: Sequence[Sample], cache: FeatureCache, views: Sequence[int]) -> Tensor:
    """Cached maps (N, T, C, H, W) float32 of samples with the same number of frames."""
    frames = [cache.frames(s.key, view) for s, view in zip(samples, views, strict=True)]
    return torch.from_numpy(np.stack(frames)).float()


def caption_tensor(
    captions: Sequence[Sequence[str]], vocabulary: Vocabulary, longest: int = 20
) -> Tensor:
    """Tokens (N, K, L) with begin and end, padded; longer captions are cut."""
    encoded = [
        [[BEGIN, *vocabulary.encode(text)[: longest - 2], END] for text in texts]
        for texts in captions
    ]
    length = max(len(tokens) for texts in encoded for tokens in texts)
    result = torch.full((len(encoded), len(encoded[0]), length), PAD)
    for i, texts in enumerate(encoded):
        for k, tokens in enumerate(texts):
            result[i, k, : len(tokens)] = torch.tensor(tokens)
    return result
