"""Hazard evidence against labels: AUC within each source, and calibration, by scene.

Whoever knows which camera a picture comes from knows half of what happens in it, so an AUC across
sources says nothing. Here only pictures of one source are ever compared with one another.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["EvidenceCase", "EvidenceScore", "calibration_error", "score_evidence"]

_BINS = 10


@dataclass(frozen=True)
class EvidenceCase:
    """One picture or clip: the probability of each hazard, what is visible, scene and source."""

    probabilities: Mapping[str, float]
    hazards: frozenset[str]
    scene: str
    source: str

    def visible(self, hazard: str) -> bool | None:
        """Whether the hazard is visible; None where the clip holds it and this frame does not."""
        return None if f"{hazard}_not_visible" in self.hazards else hazard in self.hazards


@dataclass(frozen=True)
class EvidenceScore:
    """How well the evidence of one hazard ranks; None where a source lacks one of the kinds.

    ``auc`` counts pairs of one source only, ``interval`` is its 95 % bootstrap over scenes,
    ``auc_by_source`` each source alone; ``ece`` is the expected calibration error.
    """

    visible: int
    absent: int
    auc: float | None
    interval: tuple[float, float] | None
    auc_by_source: dict[str, float]
    ece: float


def score_evidence(
    cases: Sequence[EvidenceCase], hazards: Sequence[str], seed: int = 0, rounds: int = 500
) -> dict[str, EvidenceScore]:
    """Score the evidence of each hazard; ``rounds`` of the bootstrap, 0 for no interval."""
    return {hazard: _score(cases, hazard, random.Random(seed), rounds) for hazard in hazards}


def calibration_error(probabilities: Sequence[float], outcomes: Sequence[bool]) -> float:
    """Expected calibration error over ten equal bins (Guo et al. 2017)."""
    p, y = np.asarray(probabilities), np.asarray(outcomes, np.float64)
    bins = np.minimum((p * _BINS).astype(int), _BINS - 1)
    gaps = [abs(p[bins == b].mean() - y[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    return float(sum(gaps))


def _score(
    cases: Sequence[EvidenceCase], hazard: str, order: random.Random, rounds: int
) -> EvidenceScore:
    known = [case for case in cases if case.visible(hazard) is not None]
    outcomes = [case.visible(hazard) is True for case in known]
    return EvidenceScore(
        visible=sum(outcomes),
        absent=len(outcomes) - sum(outcomes),
        auc=_auc_within(known, hazard),
        interval=_interval(known, hazard, order, rounds) if rounds else None,
        auc_by_source={
            source: auc
            for source, group in sorted(_by(known, "source").items())
            if (auc := _auc_within(group, hazard)) is not None
        },
        ece=calibration_error([case.probabilities[hazard] for case in known], outcomes),
    )


def _auc_within(cases: Sequence[EvidenceCase], hazard: str) -> float | None:
    right = pairs = 0.0
    for group in _by(cases, "source").values():
        yes = np.array([c.probabilities[hazard] for c in group if c.visible(hazard)])
        no = np.array([c.probabilities[hazard] for c in group if not c.visible(hazard)])
        right += _wins(yes, no)
        pairs += len(yes) * len(no)
    return right / pairs if pairs else None


def _wins(yes: NDArray[np.float64], no: NDArray[np.float64]) -> float:
    """Pairs in the right order; a tie is half a pair."""
    difference = yes[:, None] - no[None, :]
    return float((difference > 0).sum() + 0.5 * (difference == 0).sum())


def _interval(
    cases: Sequence[EvidenceCase], hazard: str, order: random.Random, rounds: int
) -> tuple[float, float] | None:
    """Bootstrap of whole scenes: frames of one scene are no independent evidence."""
    scenes = list(_by(cases, "scene").values())
    found = []
    for _ in range(rounds):
        drawn = [case for scene in order.choices(scenes, k=len(scenes)) for case in scene]
        if (auc := _auc_within(drawn, hazard)) is not None:
            found.append(auc)
    found.sort()
    if len(found) < rounds // 2:
        return None
    return found[round(0.025 * len(found))], found[round(0.975 * len(found)) - 1]


def _by(cases: Sequence[EvidenceCase], name: str) -> dict[str, list[EvidenceCase]]:
    groups: dict[str, list[EvidenceCase]] = defaultdict(list)
    for case in cases:
        groups[getattr(case, name)].append(case)
    return groups
