"""Hazard words in our captions beside those that people wrote: how often, and how often falsely.

Each reference of a picture is taken as if it were the caption. It is judged by the labels, as ours
are, and by the rest of the references: there a hazard is to be named that another reference names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from models.evaluation.hazards import HazardCase, HazardScore, hazards_named, score_hazards
from models.hazard_words import HAZARD_WORDS

__all__ = ["Naming", "ReferenceNaming", "people_report", "score_references"]


@dataclass(frozen=True)
class Naming:
    """Captions that name a hazard: ``named`` of ``visible``, and ``false_words`` where it is not.

    ``recall`` and ``precision`` are None where nothing is to be named, or nothing is.
    """

    visible: int
    named: int
    false_words: int

    @property
    def recall(self) -> float | None:
        """Share of the pictures with the hazard whose caption names it."""
        return self.named / self.visible if self.visible else None

    @property
    def precision(self) -> float | None:
        """Share of the captions that name it that are of pictures with it."""
        said = self.named + self.false_words
        return self.named / said if said else None

    @classmethod
    def of(cls, score: HazardScore) -> Naming:
        """Take the counts of a score."""
        return cls(score.visible, score.named, score.false_words)

    def to_json(self) -> dict[str, float | None]:
        """Make a JSON object."""
        counts = {"visible": self.visible, "named": self.named, "false_words": self.false_words}
        return {**counts, "recall": self.recall, "precision": self.precision}


@dataclass(frozen=True)
class ReferenceNaming:
    """What the reference of one place among a picture's names, and our caption beside it."""

    by_labels: Naming
    by_the_rest: Naming
    caption_by_the_rest: Naming

    def to_json(self) -> dict[str, dict[str, float | None]]:
        """Make a JSON object."""
        return {
            "by_labels": self.by_labels.to_json(),
            "by_the_rest": self.by_the_rest.to_json(),
            "caption_by_the_rest": self.caption_by_the_rest.to_json(),
        }


def score_references(
    cases: Sequence[HazardCase], references: Sequence[Sequence[str]]
) -> dict[str, list[ReferenceNaming]]:
    """Score each place among the references, as many as every picture has.

    Args:
        cases: Our captions, and what is labelled.
        references: What people wrote of the same pictures, in the same order.

    """
    found: dict[str, list[ReferenceNaming]] = {hazard: [] for hazard in HAZARD_WORDS}
    for place in range(min(map(len, references), default=0)):
        theirs = [
            replace(case, caption=texts[place])
            for case, texts in zip(cases, references, strict=True)
        ]
        named = [
            hazards_named(text for at, text in enumerate(texts) if at != place)
            for texts in references
        ]
        judged = [
            score_hazards(theirs),
            score_hazards([replace(c, hazards=n) for c, n in zip(theirs, named, strict=True)]),
            score_hazards([replace(c, hazards=n) for c, n in zip(cases, named, strict=True)]),
        ]
        for hazard, of in found.items():
            of.append(ReferenceNaming(*(Naming.of(scores[hazard]) for scores in judged)))
    return found


def people_report(
    cases: Sequence[HazardCase], references: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Tell for JSON what people name: of each of ``hazards`` and of ``all``, by place.

    ``all`` sums over hazards, so a picture counts once for each hazard in it; ``caption`` is the
    same sum of our captions, by the labels.
    """
    scores = score_references(cases, references)
    places = [list(of) for of in zip(*scores.values(), strict=True)]
    ours = [Naming.of(score) for score in score_hazards(cases).values()]
    together = [
        ReferenceNaming(
            _pooled(one.by_labels for one in of),
            _pooled(one.by_the_rest for one in of),
            _pooled(one.caption_by_the_rest for one in of),
        )
        for of in places
    ]
    return {
        "hazards": {hazard: [one.to_json() for one in of] for hazard, of in scores.items()},
        "all": [one.to_json() for one in together],
        "caption": _pooled(ours).to_json(),
    }


def _pooled(namings: Iterable[Naming]) -> Naming:
    every = list(namings)
    return Naming(
        sum(one.visible for one in every),
        sum(one.named for one in every),
        sum(one.false_words for one in every),
    )
