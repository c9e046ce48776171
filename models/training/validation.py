"""What a training is judged by while it runs: loss and captions of pictures it does not learn."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.decoders import Decoder
from models.fusion import Memory
from models.search import SearchConfig, search
from models.training.data import MapSource, alike, caption_tensor, maps_of
from models.training.losses import CiderReward, cross_entropy
from models.training.sources import Sample
from models.vocabulary import BEGIN, END, PAD, Vocabulary
from models.wording import neutral

__all__ = ["Validation", "ValidationScores", "held_out"]

log = logging.getLogger(__name__)

_PICTURES = 400
_BATCH = 50
_SEARCH = SearchConfig(BEGIN, END, beam_size=3)


def held_out(samples: Sequence[Sample], data_set: str) -> list[Sample]:
    """Validation samples of a data set; where it has none, those of all: footage of one's own."""
    every = [sample for sample in samples if sample.split == "val"]
    if not every:
        log.warning("no sample has the split val: no epoch is judged")
    chosen = [sample for sample in every if sample.data_set == data_set]
    if every and not chosen:
        log.warning("%s (validate_on) has no validation samples; those of all count", data_set)
    return chosen or every


class Trained(Protocol):
    """What can be judged: see :class:`models.training.trained.CaptionerTraining`."""

    decoder: Decoder

    def eval(self) -> object:
        """Leave training mode."""

    def memory(self, maps: Tensor, mask: Tensor) -> Memory:
        """Memory of clips from their maps."""


@dataclass(frozen=True)
class ValidationScores:
    """``loss`` in nats a word, and ``cider``: CIDEr-D of beam search, 0 to about 10.

    The loss is NaN where nothing was held out.
    """

    loss: float
    cider: float

    def __str__(self) -> str:
        """Both, for a log; nothing where nothing was held out."""
        if math.isnan(self.loss):
            return "none"
        return f"loss {self.loss:.3f}, CIDEr-D {self.cider:.3f}"


class Validation:
    """Scores a model on the first held-out pictures, the same ones each time."""

    def __init__(
        self,
        samples: Sequence[Sample],
        source: MapSource,
        vocabulary: Vocabulary,
        reward: CiderReward,
    ) -> None:
        self._samples = samples[:_PICTURES]
        self._source, self._vocabulary, self._reward = source, vocabulary, reward

    @torch.no_grad()
    def __call__(self, model: Trained) -> ValidationScores:
        """Score a model; it is left in evaluation mode."""
        model.eval()
        device = next(model.decoder.parameters()).device
        nats, words = 0.0, 0
        rewards: list[float] = []
        for chunk in alike(self._samples, self._source, lambda _frames: _BATCH):
            maps = maps_of(chunk, self._source, [0] * len(chunk)).to(device)
            mask = torch.ones(maps.shape[:2], dtype=torch.bool, device=device)
            memory = model.memory(maps, mask)
            told, count = self._nats(model.decoder, memory, chunk)
            nats, words = nats + told, words + count
            rewards += self._rewards(model.decoder, memory, chunk)
        if not words:
            return ValidationScores(math.nan, 0.0)
        return ValidationScores(nats / words, sum(rewards) / len(rewards))

    def _nats(self, decoder: Decoder, memory: Memory, chunk: Sequence[Sample]) -> tuple[float, int]:
        """Nats of all references' words together, and how many words they are, ends included."""
        tokens = caption_tensor([s.captions for s in chunk], self._vocabulary)
        tokens = tokens.to(memory.values.device)
        logits, _ = decoder(memory, tokens)
        count = int((tokens[:, :, 1:] != PAD).sum())
        return float(cross_entropy(logits, tokens, 0.0)) * count, count

    def _rewards(self, decoder: Decoder, memory: Memory, chunk: Sequence[Sample]) -> list[float]:
        found = search(
            lambda tokens, state: decoder.step(tokens, state, memory),
            decoder.initial_state(memory),
            _SEARCH,
        )
        return [
            self._reward((*paths[0].tokens, END), [self._tokens(c) for c in sample.captions])
            for paths, sample in zip(found, chunk, strict=True)
        ]

    def _tokens(self, caption: str) -> tuple[int, ...]:
        return (*self._vocabulary.encode(neutral(caption)), END)
