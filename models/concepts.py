"""Visual concepts: which words belong to a clip, and where (Fang et al. 2015, section 3).

A detector over regions and frames, trained on the words of the captions alone: a noisy-OR over
regions says that a word belongs to a picture when at least one of its regions shows it, and so
the region comes with the word for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ConceptHead", "ConceptLook", "HazardReadout", "concept_lemma", "pooled_features"]

# What simplemma's English dictionary gets wrong among the words of captions, and nouns in -ing.
_NOUNS = (
    "building clothing railing ceiling wedding painting parking string king ring swing spring "
    "thing evening morning lightning during something nothing anything"
)
_LEMMAS = {"playing": "play", "swinging": "swing", **{noun: noun for noun in _NOUNS.split(" ")}}


@cache
def concept_lemma(word: str) -> str:
    """Return the concept a word stands for: ``fights``, ``fought`` and ``fighting`` are fight."""
    # Only training and asking for words need its dictionaries; encoding and decoding do not.
    from simplemma import is_known, lemmatize  # noqa: PLC0415

    if word in _LEMMAS:
        return _LEMMAS[word]
    lemma = str(lemmatize(word, lang="en")).lower()
    if lemma != word or not word.endswith("ing") or len(word) < 6:
        return lemma
    stem = word.removesuffix("ing")
    doubled = stem[-1] == stem[-2] and stem[-1] not in "ls"
    candidates = (stem[:-1],) if doubled else (stem, f"{stem}e")
    return next((c for c in candidates if is_known(c, lang="en")), lemma)


class ConceptLook(NamedTuple):
    """What a concept head sees of frames, each for itself.

    ``values`` (..., R, C), the scores of its ``regions`` (..., R, W) and of the ``whole`` (..., W).
    """

    values: Tensor
    regions: Tensor
    whole: Tensor


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
        return self.judge(self.look(features), frame_mask)

    def look(self, features: Tensor) -> ConceptLook:
        """Look at each frame for itself: (..., R, D) features of any number of frames."""
        values = self.dropout(torch.relu(self.project(features)))
        return ConceptLook(values, self.region(values), self.whole(values.mean(-2)))

    def judge(self, look: ConceptLook, frame_mask: Tensor) -> Tensor:
        """Return the probability of each word, (N, W), from what was seen of (N, T) frames."""
        return -torch.expm1(-self._evidence(look, frame_mask))

    def evidence(self, features: Tensor, frame_mask: Tensor) -> Tensor:
        """Return -log(1 - probability) of each word in nats, (N, W); always above zero."""
        return self._evidence(self.look(features), frame_mask)

    def regions(
        self, look: ConceptLook, frame_mask: Tensor, words: Sequence[int] | None = None
    ) -> Tensor:
        """Return what each position alone puts in of all ``words``, in nats: (N, T, R, W)."""
        among = slice(None) if words is None else list(words)
        scores = look.regions[..., among]
        motion = self._motion(look.values, frame_mask)
        if motion is not None:
            moved, seen = self.motion_norm(motion[0]), motion[1]
            change = F.linear(moved, self.region_motion.weight[among]) * seen
            scores = scores + change.unsqueeze(1)
        return F.softplus(scores.float()) * _share(frame_mask)[:, :, None, None]

    def _evidence(self, look: ConceptLook, frame_mask: Tensor) -> Tensor:
        region_scores, whole_scores = look.regions, look.whole
        motion = self._motion(look.values, frame_mask)
        if motion is not None:
            moved, seen = motion
            change = self.region_motion(self.motion_norm(moved)) * seen
            whole = self.whole_motion(self.motion_norm(moved.mean(1))) * seen[:, 0]
            region_scores = region_scores + change.unsqueeze(1)
            whole_scores = whole_scores + whole.unsqueeze(1)
        each = F.softplus(region_scores.float()).sum(2) + F.softplus(whole_scores.float())
        total: Tensor = (each * _share(frame_mask).unsqueeze(-1)).sum(1).clamp_min(1e-6)
        return total

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
    has no motion: that part is left out and its place is taken by nothing, offset included. Where
    ``alone`` is 1, change tells by itself, and what stills say counts for pictures only.
    """

    strongest: Tensor
    mean: Tensor
    offset: Tensor
    motion: Tensor
    motion_offset: Tensor
    alone: Tensor

    def __init__(self, feature_size: int, hazards: int) -> None:
        super().__init__()
        for name in ("strongest", "mean", "motion"):
            self.register_buffer(name, torch.zeros(hazards, feature_size))
        for name in ("offset", "motion_offset", "alone"):
            self.register_buffer(name, torch.zeros(hazards))

    def forward(self, features: Tensor, frame_mask: Tensor) -> Tensor:
        """Return the probability of each hazard, (N, H), from (N, T, R, D) features."""
        return self.judge(features, features.amax(2), features.mean(2), frame_mask)

    def judge(self, features: Tensor, most: Tensor, mean: Tensor, frame_mask: Tensor) -> Tensor:
        """Like the call, where maximum and mean of each frame, (N, T, D), are known already."""
        strongest, level, motion, moves = _pooled(features, most, mean, frame_mask)
        logits = strongest @ self.strongest.T + level @ self.mean.T + self.offset
        change = motion @ self.motion.T + self.motion_offset
        moves = moves.unsqueeze(1)
        return torch.sigmoid(logits * (1 - moves * self.alone) + change * moves)

    def positions(
        self, features: Tensor, frame_mask: Tensor, hazards: Sequence[int] | None = None
    ) -> Tensor:
        """Return what each position puts in of a hazard's log-odds, in nats: (N, T, R, H).

        Offsets apart, the log-odds are their sum: the read-out is linear, the strongest answer of a
        feature is of one position, and change is of the later of two frames. Negative where a
        position speaks against the hazard, and what an earlier frame showed stands in that frame.
        """
        among = range(len(self.offset)) if hazards is None else hazards
        features = features.float()
        count, frames, regions, _ = features.shape
        stills = (
            features @ self.mean[list(among)].T * (_share(frame_mask) / regions)[..., None, None]
        )
        # The strongest answer: in which frame, and there in which region.
        most = features.amax(2).masked_fill(~frame_mask.unsqueeze(-1), float("-inf"))
        most, when = most.max(1)
        there = features.gather(1, when[:, None, None].expand(-1, 1, regions, -1)).squeeze(1)
        where = when * regions + there.argmax(1)
        for index, hazard in enumerate(among):
            part = stills.new_zeros((count, frames * regions))
            part.scatter_add_(1, where, most * self.strongest[hazard])
            stills[..., index] += part.view(count, frames, regions)
        both = frame_mask[:, 1:] & frame_mask[:, :-1]
        steps = both.sum(1)
        change = torch.zeros_like(stills)
        for t in range(both.shape[1]):  # one pair at a time, as in pooling
            step = (features[:, t + 1] - features[:, t]).abs_() @ self.motion[list(among)].T
            change[:, t + 1] = step * both[:, t, None, None]
        change = change / (steps.clamp_min(1) * regions)[:, None, None, None]
        moves = (steps > 0).to(stills.dtype)[:, None, None, None]
        return stills * (1 - moves * self.alone[list(among)]) + change * moves


def pooled_features(features: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Maximum, mean and mean absolute change of (N, T, R, D) features, each (N, D).

    The fourth, (N,), is 1 where there are two neighbouring frames, and so a change, else 0.
    """
    features = features.float()
    return _pooled(features, features.amax(2), features.mean(2), frame_mask)


def _pooled(
    features: Tensor, most: Tensor, mean: Tensor, frame_mask: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    strongest = most.masked_fill(~frame_mask.unsqueeze(-1), float("-inf")).amax(1)
    level = (mean * _share(frame_mask).unsqueeze(-1)).sum(1)
    both = frame_mask[:, 1:] & frame_mask[:, :-1]
    motion = torch.zeros_like(level)
    for t in range(both.shape[1]):  # one pair at a time: what lies between stays in the cache
        # On a CPU a third of what the L1 norm of torch.linalg takes.
        step = (features[:, t + 1] - features[:, t]).abs_().sum(1)
        motion = motion + step * both[:, t, None]
    count = both.sum(1)
    motion = motion / (count.clamp_min(1) * features.shape[2]).unsqueeze(1)
    return strongest, level, motion, (count > 0).to(features.dtype)


def _share(frame_mask: Tensor) -> Tensor:
    """Each frame's part in a mean over those that exist, (N, T)."""
    return frame_mask / frame_mask.sum(1, keepdim=True)
