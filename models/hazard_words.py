"""Words that name a hazard in a caption, and whether a caption does."""

from __future__ import annotations

from models.vocabulary import tokenize

__all__ = ["HAZARD_WORDS", "names_hazard", "suggests_hazard"]

_WORDS = {
    "fire": "fire fires flame flames flaming burn burns burning burnt burned blaze blazes blazing "
    "ablaze bonfire campfire inferno",
    "smoke": "smoke smoky",
    "fight": "fight fights fighting fought brawl brawls brawling punch punches punching scuffle "
    "scuffles scuffling attack attacks attacking assault assaults assaulting struggle struggles "
    "struggling shove shoves shoving beating",
    "crash": "crash crashes crashed crashing collide collides collided colliding collision "
    "accident smash smashes smashed wreck wrecked overturned overturning damaged",
    "person_down": "lie lies lying laying fall falls fallen fell falling collapsed",
    "weapon": "weapon weapons gun guns pistol pistols handgun handguns rifle rifles knife knives "
    "armed machete",
}
HAZARD_WORDS = {hazard: frozenset(words.split()) for hazard, words in _WORDS.items()}
"""Words that name a hazard; the labels of the data are the keys."""

# Words after "fire" that make it something else.
_HARMLESS_AFTER_FIRE = frozenset(
    f"{word}{plural}"
    for word in (
        "truck",
        "engine",
        "hydrant",
        "extinguisher",
        "escape",
        "station",
        "alarm",
        "place",
    )
    for plural in ("", "s")
)


def names_hazard(caption: str, hazard: str) -> bool:
    """Whether a caption names a hazard; ``fire truck`` and its like are no fire."""
    words = tokenize(caption)
    following = [*words[1:], ""]
    return any(
        word in HAZARD_WORDS[hazard] and not (word == "fire" and after in _HARMLESS_AFTER_FIRE)
        for word, after in zip(words, following, strict=True)
    )


_HOLDING = (
    "hold holds holding carry carries carrying raise raises raising swing swings swinging wave "
    "waves waving wield wields wielding grip grips gripping"
)
_HELD_AS_WEAPON = (
    "stick sticks bat bats club clubs rod rods hammer hammers axe axes pole poles pipe pipes "
    "sword swords whip whips crowbar stone stones brick bricks"
)
_WITHIN_WORDS = 5


def suggests_hazard(caption: str, hazard: str) -> bool:
    """Whether a caption names a hazard or what comes close to it: somebody holds a stick.

    Such a caption needs no word forced into it; for counting it names nothing, since most sticks
    are harmless.
    """
    if names_hazard(caption, hazard):
        return True
    words = tokenize(caption)
    holding, held = frozenset(_HOLDING.split()), frozenset(_HELD_AS_WEAPON.split())
    return hazard == "weapon" and any(
        word in holding and held.intersection(words[at + 1 : at + 1 + _WITHIN_WORDS])
        for at, word in enumerate(words)
    )
