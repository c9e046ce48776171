"""Fits the hazard read-out, and tells what it would have said of scenes it has not seen.

The decoder is conditioned on hazard probabilities. Those of scenes that the read-out was fitted
on are nearly all 0 or 1, those of new scenes are not; a decoder that trusted the former would
trust the latter too much. So it is trained on out-of-fold probabilities, by folds of scenes.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from models.concepts import HazardReadout, pooled_features
from models.evaluation.evidence import EvidenceCase, score_evidence
from models.grounding import Thresholds
from models.training.concepts import HAZARD_CONCEPTS, hazard_labels
from models.training.sources import Sample

__all__ = [
    "OutOfFold",
    "ReadoutTable",
    "calibrate",
    "choose_thresholds",
    "fit_readout",
    "fit_table",
    "fit_without_folds",
    "fold_of",
    "leave_out",
    "logistic",
    "readout_samples",
]

_FOLDS = 5
_PENALTIES = (0.03, 0.1, 0.3)
_MOTION_PENALTIES = (0.3, 3.0, 10.0)
_FALSE_RATE, _MISSED_RATE = 0.01, 0.05
_FEW_SCENES = 8
"""With fewer scenes of clips that show a hazard, its motion says too little."""

Regions = Callable[[Sample, int], Tensor]
"""Features (T, R, D) of a sample in a view."""
OutOfFold = dict[str, Tensor]
"""By sample key, the probability of each hazard (H,) from a fit without that sample's scene."""


def readout_samples(samples: Sequence[Sample], unlabelled: int, seed: int) -> list[Sample]:
    """All samples with labelled hazards, and so many others as quiet company."""
    labelled = [sample for sample in samples if sample.hazards is not None]
    others = [sample for sample in samples if sample.hazards is None]
    return labelled + random.Random(seed).sample(others, min(unlabelled, len(others)))


def fit_readout(
    readout: HazardReadout, samples: Sequence[Sample], regions: Regions, views: int = 2
) -> OutOfFold:
    """Fit the read-out in place on samples and their first views; see :func:`fit_table`."""
    shown = ((sample, regions(sample, view)) for sample in samples for view in range(views))
    return fit_table(readout, ReadoutTable.of(shown))


def fit_table(readout: HazardReadout, table: ReadoutTable) -> OutOfFold:
    """Fit the read-out in place, and tell what it would have said of scenes left out.

    For each hazard the L2 penalties, and whether change tells clips better without the stills, are
    those with the best AUC within sources, out of fold.
    Classes weigh the same while fitting; Platt scaling of the out-of-fold scores (Platt 1999)
    makes probabilities of them again.
    """
    probabilities = _fill(readout, table)
    keys = [sample.key for sample in table.rows]
    return {
        key: probabilities[[row for row, other in enumerate(keys) if other == key]].mean(0)
        for key in dict.fromkeys(keys)
    }


def fold_of(scene: str, folds: int = _FOLDS) -> int:
    """Fold that a scene falls into: the same in every run, and unlike from its neighbours'."""
    return zlib.crc32(scene.encode()) % folds


def leave_out(samples: Sequence[Sample], fold: int, folds: int = _FOLDS) -> list[Sample]:
    """Samples for cross-validation: scenes with labelled hazards are split anew, by fold.

    Those of ``fold`` are the validation, all others are learnt from; samples without hazard labels
    keep their split.
    """
    return [
        replace(s, split="val" if fold_of(s.scene, folds) == fold else "train")
        if s.hazards is not None
        else s
        for s in samples
    ]


def fit_without_folds(table: ReadoutTable, folds: int) -> list[HazardReadout]:
    """Fit one read-out for each fold of scenes, on all samples but that fold's.

    What the read-out ``fold_of(scene, folds)`` says of a scene is what the shipped one, which
    has seen them all, would say of a new one; it errs a little on the side of caution, having
    seen fewer scenes.
    """
    readouts = []
    for fold in range(folds):
        readout = HazardReadout(table.motion.shape[1], len(HAZARD_CONCEPTS))
        _fill(readout, table.where([fold_of(s.scene, folds) != fold for s in table.rows]))
        readouts.append(readout)
    return readouts


def choose_thresholds(
    samples: Sequence[Sample],
    out_of_fold: OutOfFold,
    false_rates: Mapping[str, float],
    missed_rates: Mapping[str, float],
    cost: float | None = None,
) -> dict[str, Thresholds]:
    """Choose, on out-of-fold probabilities, when captions may and when they must name a hazard.

    Args:
        samples: Training samples.
        out_of_fold: What :func:`fit_readout` gave.
        false_rates: By hazard, the share of samples without it that may lie above ``say``.
        missed_rates: By hazard, the share of samples with it that may lie below ``deny``.
        cost: What naming any hazard may cost a caption; see :class:`models.grounding.Thresholds`.

    """
    thresholds = {}
    for number, hazard in enumerate(HAZARD_CONCEPTS):
        shown: list[float] = []
        quiet: list[float] = []
        for sample in samples:
            visible = hazard_labels(sample)[hazard]
            if visible is not None and sample.key in out_of_fold:
                probability = float(out_of_fold[sample.key][number])
                (shown if visible else quiet).append(probability)
        if shown and quiet:
            rate = false_rates.get(hazard, _FALSE_RATE)
            say = float(torch.quantile(torch.tensor(quiet), 1 - rate))
            missed = missed_rates.get(hazard, _MISSED_RATE)
            deny = float(torch.quantile(torch.tensor(shown), missed))
            thresholds[hazard] = Thresholds(round(min(deny, say), 4), round(say, 4), cost)
    return thresholds


def logistic(
    features: Tensor, target: Tensor, penalty: float, given: Tensor
) -> tuple[Tensor, Tensor]:
    """Weights (D,) and offset of an L2-penalised logistic regression; classes weigh the same.

    Args:
        features: (n, D), standardised inside.
        target: (n,), 0 or 1.
        penalty: On the squared weights of standardised features.
        given: (n,) scores in nats that are added to.

    """
    if target.sum() in (0, len(target)):
        return torch.zeros(features.shape[1]), torch.zeros(())
    mean, deviation = features.mean(0), features.std(0) + 1e-3
    standard = (features - mean) / deviation
    weights = torch.zeros(features.shape[1], requires_grad=True)
    offset = torch.zeros((), requires_grad=True)
    balance = (len(target) - target.sum()) / target.sum()
    optimizer = torch.optim.LBFGS([weights, offset], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        scores = standard @ weights + offset + given
        loss = F.binary_cross_entropy_with_logits(scores, target, pos_weight=balance)
        loss = loss + penalty * weights.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    raw = (weights / deviation).detach()
    return raw, (offset - raw @ mean).detach()


def calibrate(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift that make log-odds of scores (n,); the order stays (Platt 1999)."""
    scale, shift = torch.ones((), requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([scale, shift], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(scores * scale + shift, target)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return scale.detach().clamp_min(1e-3), shift.detach()


@dataclass(frozen=True)
class ReadoutTable:
    """One row a sample and view: maximum and mean side by side (n, 2D), and change (n, D)."""

    rows: list[Sample]
    still: Tensor
    motion: Tensor
    moves: Tensor

    @classmethod
    def of(cls, shown: Iterable[tuple[Sample, Tensor]]) -> ReadoutTable:
        """Pool the features (T, R, D) of each sample, one after the other."""
        rows, parts = [], []
        for sample, features in shown:
            mask = torch.ones(1, len(features), dtype=torch.bool)
            rows.append(sample)
            parts.append(pooled_features(features.unsqueeze(0).cpu(), mask))
        strongest, mean, motion, moves = (torch.cat(part) for part in zip(*parts, strict=True))
        return cls(rows, torch.cat((strongest, mean), 1), motion, moves)

    def where(self, wanted: Sequence[bool]) -> ReadoutTable:
        """Keep the rows that are wanted."""
        at = torch.tensor(wanted)
        rows = [row for row, keep in zip(self.rows, wanted, strict=True) if keep]
        return ReadoutTable(rows, self.still[at], self.motion[at], self.moves[at])


@dataclass
class _Change:
    """Weights (D,) and offset of change; ``alone`` where it tells clips without the stills.

    ``out_of_fold`` is the whole score of each clip, (n,) in nats.
    """

    weights: Tensor
    offset: Tensor
    alone: bool
    out_of_fold: Tensor


@dataclass
class _Fit:
    weights: Tensor
    offset: Tensor
    change: _Change
    out_of_fold: Tensor


def _fill(readout: HazardReadout, table: ReadoutTable) -> Tensor:
    """Fit every hazard in place; return the out-of-fold probability of each row, (n, H)."""
    probabilities = torch.zeros(len(table.rows), len(HAZARD_CONCEPTS))
    for number, hazard in enumerate(HAZARD_CONCEPTS):
        fit = _fit_hazard(table, hazard)
        change = fit.change
        probabilities[:, number] = fit.out_of_fold
        readout.strongest[number], readout.mean[number] = fit.weights.chunk(2)
        readout.offset[number] = fit.offset
        readout.motion[number], readout.motion_offset[number] = change.weights, change.offset
        readout.alone[number] = float(change.alone)
    return probabilities


def _fit_hazard(table: ReadoutTable, hazard: str) -> _Fit:
    labels = [hazard_labels(sample)[hazard] for sample in table.rows]
    known = torch.tensor([label is not None for label in labels])
    target = torch.tensor([float(label is True) for label in labels])
    folds = torch.tensor([fold_of(s.scene) for s in table.rows])
    nothing = torch.zeros(len(target))
    penalty = max(
        _PENALTIES,
        key=lambda l2: _auc(
            table, hazard, _out_of_fold(table.still, target, known, folds, l2, nothing)
        ),
    )
    held_out = _out_of_fold(table.still, target, known, folds, penalty, nothing)
    weights, offset = logistic(table.still[known], target[known], penalty, nothing[known])
    scale, shift = calibrate(held_out[known], target[known])
    held_out = held_out * scale + shift
    clips = known & (table.moves > 0)
    shown = {s.scene for s, t, c in zip(table.rows, target, clips, strict=True) if t > 0 and c}
    change = _Change(torch.zeros(table.motion.shape[1]), torch.zeros(()), False, held_out[clips])
    if len(shown) >= _FEW_SCENES:
        change = _fit_change(table.where(clips.tolist()), hazard, target[clips], held_out[clips])
    held_out[clips] = change.out_of_fold
    return _Fit(weights * scale, offset * scale + shift, change, torch.sigmoid(held_out))


def _fit_change(clips: ReadoutTable, hazard: str, target: Tensor, still: Tensor) -> _Change:
    """What change adds to what stills say of clips, or says by itself: what holds in new scenes.

    ``still`` is what stills say out of fold, (n,) in nats: scores of the rows that they were fitted
    on would leave nothing to add.
    """
    all_rows = torch.ones(len(target), dtype=torch.bool)
    folds = torch.tensor([fold_of(sample.scene) for sample in clips.rows])
    tried: dict[tuple[bool, float], Tensor] = {}
    for alone in (False, True):
        given = torch.zeros_like(still) if alone else still
        for l2 in _MOTION_PENALTIES:
            tried[alone, l2] = _out_of_fold(clips.motion, target, all_rows, folds, l2, given)
    alone, l2 = max(tried, key=lambda choice: _auc(clips, hazard, tried[choice]))
    given = torch.zeros_like(still) if alone else still
    weights, offset = logistic(clips.motion, target, l2, given)
    if not alone:
        return _Change(weights, offset, alone, tried[alone, l2])
    scale, shift = calibrate(tried[alone, l2], target)
    return _Change(weights * scale, offset * scale + shift, alone, tried[alone, l2] * scale + shift)


def _out_of_fold(
    features: Tensor, target: Tensor, known: Tensor, folds: Tensor, penalty: float, given: Tensor
) -> Tensor:
    """Score each row by a fit on the other folds' scenes; ``given`` scores are added to."""
    scores = torch.zeros(len(target))
    for fold in range(_FOLDS):
        fitted_on, held_out = known & (folds != fold), folds == fold
        weights, offset = logistic(
            features[fitted_on], target[fitted_on], penalty, given[fitted_on]
        )
        scores[held_out] = given[held_out] + features[held_out] @ weights + offset
    return scores


def _auc(table: ReadoutTable, hazard: str, scores: Tensor) -> float:
    cases = [
        EvidenceCase({hazard: float(score)}, frozenset(s.hazards or ()), s.scene, s.source)
        for s, score in zip(table.rows, scores, strict=True)
        if s.hazards is not None
    ]
    return score_evidence(cases, [hazard], rounds=0)[hazard].auc or 0.0
