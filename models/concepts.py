"""Visual concepts: which words belong to a clip, and where (Fang et al. 2015, section 3).

A detector over regions and frames, trained on the words of the captions alone: a noisy-OR over
regions says that a word belongs to a picture when at least one of its regions shows it, and so
the region comes with the word for nothing.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from simplemma import is_known, lemmatize
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ConceptHead", "HazardReadout", "concept_lemma", "pooled_features"]

# What simplemma's English dictionary gets wrong among the words of captions, and nouns in -ing.
_NOUNS = (
    "building clothing railing ceiling wedding painting parking string king ring swing spring "
    "thing evening morning lightning during something nothing anything"
)
_LEMMAS = {"playing": "play", "swinging": "swing", **{noun: noun for noun in _NOUNS.split(" ")}}


@cache
def concept_lemma(word: str) -> str:
    """Return the concept a word stands for: ``fights``, ``fought`` and ``fighting`` are fight."""
    if word in _LEMMAS:
        return _LEMMAS[word]
    lemma = str(lemmatize(word, lang="en")).lower()
    if lemma != word or not word.endswith("ing") or len(word) < 6:
        return lemma
    stem = word.removesuffix("ing")
    doubled = stem[-1] == stem[-2] and stem[-1] not in "ls"
    candidates = (stem[:-1],) if doubled else (stem, f"{stem}e")
    return next((c for c in candidates if is_known(c, lang="en")), lemma)


class ConceptHead(nn.Module):
    """Noisy-OR over regions, with the change between frames as a second kind of evidence.

    Each position of a frame, and each frame as a whole, puts in evidence
    ``-log(1 - p) = softplus(score)`` in nats; it is summed over regions and averaged over frames,
    so that a clip and a still picture are judged on one scale. A picture has no motion: that part
    is then left out, and in training it is left out of clips at random too, lest stillness itself
    become the cue.
    """

    def __init__(
        self, feature_size: int, size: int, words: int, motion_dropout: float = 0.3
    ) -> None:
        super().__init__()
        self.project = nn.Linear(feature_size, size)
        self.motion_norm = nn.LayerNorm(size)
        self.region = nn.Linear(size, words)
        self.region_motion = nn.Linear(size, words, bias=False)
        self.whole = nn.Linear(size, words)
        self.whole_motion = nn.Linear(size, words, bias=False)
        self.dropout = nn.Dropout(0.3)
        self.motion_dropout = motion_dropout
        # A word belongs to one picture in a hundred or so, and 49 regions each have their say.
        nn.init.constant_(self.region.bias, math.log(0.01 / 49))
        nn.init.constant_(self.whole.bias, math.log(0.01))

    def forward(self, features: Tensor, frame_mask: Tensor) -> Tensor:
        """Return the probability of each word, (N, W), from (N, T, R, D) features."""
        return -torch.expm1(-self.evidence(features, frame_mask))

    def evidence(self, features: Tensor, frame_mask: Tensor) -> Tensor:
        """Return -log(1 - probability) of each word in nats, (N, W); always above zero."""
        regions, whole = self._parts(features, frame_mask)
        total: Tensor = (regions.sum(2) + whole).sum(1).clamp_min(1e-6)
        return total

    def regions(self, features: Tensor, frame_mask: Tensor) -> Tensor:
        """Return what each position alone puts in, in nats: (N, T, R, W)."""
        return self._parts(features, frame_mask)[0]

    def _parts(self, features: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Evidence of regions (N, T, R, W) and of whole frames (N, T, W), already averaged."""
        values = self.dropout(torch.relu(self.project(features)))
        region_scores = self.region(values)
        whole_scores = self.whole(values.mean(2))
        motion = self._motion(values, frame_mask)
        if motion is not None:
            moved, seen = motion
            change = self.region_motion(self.motion_norm(moved)) * seen
            whole = self.whole_motion(self.motion_norm(moved.mean(1))) * seen[:, 0]
            region_scores = region_scores + change.unsqueeze(1)
            whole_scores = whole_scores + whole.unsqueeze(1)
        share = frame_mask / frame_mask.sum(1, keepdim=True)
        regions = F.softplus(region_scores.float()) * share[:, :, None, None]
        return regions, F.softplus(whole_scores.float()) * share[:, :, None]

    def _motion(self, values: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean change between neighbouring frames (N, R, C), and whom it counts for (N, 1, 1)."""
        if values.shape[1] < 2:
            return None
        both = (frame_mask[:, 1:] & frame_mask[:, :-1]).to(values.dtype)
        steps = (values[:, 1:] - values[:, :-1]).abs() * both[:, :, None, None]
        count = both.sum(1)
        moved = steps.sum(1) / count.clamp_min(1)[:, None, None]
        seen = (count > 0).to(values.dtype)
        if self.training:
            seen = seen * (torch.rand_like(seen) >= self.motion_dropout)
        return moved, seen[:, None, None]


class HazardReadout(nn.Module):
    """Regularised linear read-out of hazards: fitted in one go, never trained by gradients.

    Hazards stand in few scenes, and what learns by gradients learns the scenes. This reads three
    things, and L2 keeps it humble: the strongest answer of each feature anywhere in the window
    (a small flame), its mean, and, where there are two frames or more, its mean change. A picture
    has no motion: that part is left out and its place is taken by nothing, offset included.
    """

    strongest: Tensor
    mean: Tensor
    offset: Tensor
    motion: Tensor
    motion_offset: Tensor

    def __init__(self, feature_size: int, hazards: int) -> None:
        super().__init__()
        for name in ("strongest", "mean", "motion"):
            self.register_buffer(name, torch.zeros(hazards, feature_size))
        for name in ("offset", "motion_offset"):
            self.register_buffer(name, torch.zeros(hazards))

    def forward(self, features: Tensor, frame_mask: Tensor) -> Tensor:
        """Return the probability of each hazard, (N, H), from (N, T, R, D) features."""
        strongest, mean, motion, moves = pooled_features(features, frame_mask)
        logits = strongest @ self.strongest.T + mean @ self.mean.T + self.offset
        change = motion @ self.motion.T + self.motion_offset
        return torch.sigmoid(logits + change * moves.unsqueeze(1))


def pooled_features(features: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Maximum, mean and mean absolute change of (N, T, R, D) features, each (N, D).

    The fourth, (N,), is 1 where there are two neighbouring frames, and so a change, else 0.
    """
    features = features.float()
    exists = frame_mask[:, :, None, None]
    strongest = features.masked_fill(~exists, float("-inf")).amax((1, 2))
    share = exists / (frame_mask.sum(1) * features.shape[2])[:, None, None, None]
    mean = (features * share).sum((1, 2))
    both = (frame_mask[:, 1:] & frame_mask[:, :-1])[:, :, None, None]
    steps = (features[:, 1:] - features[:, :-1]).abs() * both
    count = both.sum((1, 2, 3))
    motion = steps.mean(2).sum(1) / count.clamp_min(1)[:, None]
    return strongest, mean, motion, (count > 0).to(features.dtype)
