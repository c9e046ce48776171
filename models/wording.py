"""Words the model must not use of people: what somebody is by birth, body or belief.

A camera cannot know them, a caption must not claim them, and no rule may be built on them. They
are taken out of training captions, forbidden while decoding, and counted by ``models audit``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

__all__ = ["FORBIDDEN_WORDS", "count_forbidden", "neutral"]

_DESCENT = (
    "african african-american afro asian caucasian latino latina hispanic oriental ethnic arab "
    "arabic arabian eskimo negro gypsy native-american middle-eastern"
)
_BELIEF = "muslim islamic jewish jew christian hindu sikh buddhist catholic mormon amish"
_BODY = (
    "fat obese overweight chubby skinny ugly pretty beautiful attractive handsome sexy cute "
    "crippled handicapped disabled midget dwarf deformed busty"
)
FORBIDDEN_WORDS = frozenset(f"{_DESCENT} {_BELIEF} {_BODY}".split(" "))
"""Never said, of whomever."""

_PEOPLE = (
    "man|men|woman|women|boy|boys|girl|girls|child|children|kid|kids|person|people|lady|ladies|"
    "guy|guys|male|males|female|females|baby|toddler|couple|family|teenager|teenagers|adult|adults"
)
_BEFORE_PEOPLE = re.compile(
    r"\b(?:black|white|brown|colored|indian|chinese|japanese|korean|mexican|american|german|"
    rf"native|foreign|dark-skinned|light-skinned)\s+(?=(?:(?:young|old|little)\s+)?(?:{_PEOPLE})\b)",
    re.IGNORECASE,
)
_ALWAYS = re.compile(
    rf"\b(?:{'|'.join(sorted(FORBIDDEN_WORDS, key=len, reverse=True))})\b\s*", re.IGNORECASE
)


def neutral(caption: str) -> str:
    """Return a caption without such words: ``a fat white man`` becomes ``a man``."""
    return _BEFORE_PEOPLE.sub("", _ALWAYS.sub("", caption)).strip()


def count_forbidden(captions: Iterable[str]) -> Counter[str]:
    """Count such words and phrases; ``black`` counts before a person and not before a dog."""
    found: Counter[str] = Counter()
    for caption in captions:
        for pattern in (_ALWAYS, _BEFORE_PEOPLE):
            found.update(match.group().strip().lower() for match in pattern.finditer(caption))
    return found
