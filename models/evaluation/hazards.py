"""Hazard words in captions against hazard labels: recall, precision, false words, by scene."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from models.hazard_words import HAZARD_WORDS, names_hazard

__all__ = [
    "HAZARD_WORDS",
    "HazardCase",
    "HazardScore",
    "hazards_named",
    "names_hazard",
    "score_hazards",
]


@dataclass(frozen=True)
class HazardCase:
    """One captioned picture or clip: its caption, what is visible in it, its scene and source."""

    caption: str
    hazards: frozenset[str]
    scene: str
    source: str


@dataclass(frozen=True)
class HazardScore:
    """Counts of pictures and captions of one hazard, with 95 % intervals of recall by scene.

    ``named`` of ``visible`` pictures got the word; ``false_words`` of ``absent`` pictures too.
    Pictures whose clip holds the event out of sight (``*_not_visible``) count on neither side.
    """

    visible: int
    named: int
    absent: int
    false_words: int
    recall: float | None
    recall_interval: tuple[float, float] | None
    precision: float | None
    false_rate: float | None


def hazards_named(captions: Iterable[str]) -> frozenset[str]:
    """Hazards that one of the captions names."""
    texts = list(captions)
    return frozenset(h for h in HAZARD_WORDS if any(names_hazard(text, h) for text in texts))


def score_hazards(cases: Sequence[HazardCase], seed: int = 0) -> dict[str, HazardScore]:
    """Score every hazard of :data:`HAZARD_WORDS`."""
    return {hazard: _score(cases, hazard, random.Random(seed)) for hazard in HAZARD_WORDS}


def _score(cases: Sequence[HazardCase], hazard: str, order: random.Random) -> HazardScore:
    scenes: dict[str, list[bool]] = defaultdict(list)
    absent = false_words = 0
    for case in cases:
        named = names_hazard(case.caption, hazard)
        if hazard in case.hazards:
            scenes[case.scene].append(named)
        elif f"{hazard}_not_visible" not in case.hazards:
            absent += 1
            false_words += named
    visible = sum(map(len, scenes.values()))
    hits = sum(map(sum, scenes.values()))
    return HazardScore(
        visible=visible,
        named=hits,
        absent=absent,
        false_words=false_words,
        recall=_ratio(hits, visible),
        recall_interval=_interval(list(scenes.values()), order),
        precision=_ratio(hits, hits + false_words),
        false_rate=_ratio(false_words, absent),
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _interval(
    scenes: Sequence[Sequence[bool]], order: random.Random, rounds: int = 1000
) -> tuple[float, float] | None:
    """Bootstrap of whole scenes: frames of one scene are no independent evidence."""
    if not scenes:
        return None
    rates = []
    for _ in range(rounds):
        drawn = order.choices(scenes, k=len(scenes))
        rates.append(sum(map(sum, drawn)) / sum(map(len, drawn)))
    rates.sort()
    return rates[round(0.025 * rounds)], rates[round(0.975 * rounds) - 1]
