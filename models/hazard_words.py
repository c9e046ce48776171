"""Words that name a hazard in a caption, and whether a caption does."""

from __future__ import annotations

from models.vocabulary import tokenize

__all__ = ["HAZARD_WORDS", "names_hazard"]

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
