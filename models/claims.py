"""Claims: what a caption says only of a picture that bears it out, kind by kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from models.colour import COLOUR, names_colour
from models.hazard_words import HAZARD_WORDS, names_hazard
from models.people_words import PEOPLE, PEOPLE_CONCEPTS, names_people

__all__ = ["CLAIMS", "Claim"]


@dataclass(frozen=True)
class Claim:
    """One kind of claim.

    Attributes:
        named_in: Whether a caption makes it.
        concepts: The likeliest of these visual concepts is its evidence; none: pixels tell.
        said_as: Words, the best first, with which a caption can be made to make it; none: it
            never is made to.

    """

    named_in: Callable[[str], bool]
    concepts: frozenset[str] = frozenset()
    said_as: tuple[str, ...] = ()


_SAID_AS = {
    "fire": ("fire", "burning", "burns", "flames"),
    "smoke": ("smoke",),
    "fight": ("fighting", "fight", "fights"),
    "crash": ("crashed", "crash", "accident", "damaged", "collided"),
    "person_down": ("lying", "lies"),
    "weapon": ("gun", "knife", "pistol", "rifle"),
}

CLAIMS: Mapping[str, Claim] = {
    **{
        hazard: Claim(partial(names_hazard, hazard=hazard), frozenset({hazard}), _SAID_AS[hazard])
        for hazard in HAZARD_WORDS
    },
    PEOPLE: Claim(names_people, PEOPLE_CONCEPTS),
    COLOUR: Claim(names_colour),
}
"""By kind: each hazard, people and colour."""
