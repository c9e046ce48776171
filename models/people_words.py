"""Words that name people in a caption, and the visual concepts that see them."""

from __future__ import annotations

from models.vocabulary import tokenize

__all__ = ["PEOPLE", "PEOPLE_CONCEPTS", "PEOPLE_WORDS", "names_people"]

PEOPLE = "people"
"""Their key among the thresholds that captions are held against."""

_CONCEPTS = (
    "man woman person people boy girl child kid worker player rider cyclist pedestrian group crowd"
)
PEOPLE_CONCEPTS = frozenset(_CONCEPTS.split())
"""Concepts of people; the likeliest of them says whether there are any."""

_ONE_AND_MANY = (
    "person boy girl kid toddler guy male female worker player rider cyclist bicyclist biker "
    "pedestrian adult teenager teen skateboarder surfer skier snowboarder climber hiker swimmer "
    "runner officer guard firefighter driver customer shopper passenger clerk cashier onlooker "
    "figure individual soldier athlete cowboy dancer wrestler boxer motorcyclist performer "
    "musician singer spectator student father mother son daughter bride groom walker robber"
)
_OTHERS = (
    "man men woman women people child children baby babies lady ladies gentleman gentlemen "
    "policeman policemen fireman firemen gunman gunmen someone youth youths crowd couple"
)
PEOPLE_WORDS = frozenset(
    (*_OTHERS.split(), *(word + end for word in _ONE_AND_MANY.split() for end in ("", "s")))
)
"""Words that name people and nothing else: dogs come in groups too, and have "his"."""


def names_people(caption: str) -> bool:
    """Whether a caption names people."""
    return not PEOPLE_WORDS.isdisjoint(tokenize(caption))
