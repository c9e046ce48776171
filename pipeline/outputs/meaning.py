"""Whether two captions say the same: by their content words' lemmas, not letter by letter."""

from __future__ import annotations

import re
from functools import lru_cache

import simplemma

__all__ = ["content_lemmas", "says_the_same"]

_WORD = re.compile(r"\w+(?:['’]\w+)?")
_THRESHOLD = 0.6
# Words that carry no content of their own; a caption rarely differs in meaning by them.
_FUNCTION_WORDS = frozenset(
    """a an the this that these those some several of in on at by to from with and or as into onto
    over under near while there it its his her their them he she they is are be was were being
    been do does have has had who which what one""".split()  # noqa: SIM905 - sixty words in three lines, not in sixty
)
# Different words for the same thing in captions; both sides are lemmas.
_SAME = {
    "guy": "man", "person": "people", "someone": "people", "lady": "woman", "kid": "child",
    "automobile": "car", "bike": "bicycle", "street": "road", "speak": "talk", "chat": "talk",
    "big": "large", "little": "small", "couple": "two",
}  # fmt: skip
# Words that turn a sentence round; captions that differ in one never say the same.
_TURNING = frozenset({"no", "not", "nobody", "without", "empty", "none", "nothing", "never"})


def says_the_same(first: str, second: str) -> bool:
    """Tell whether both captions share most of their content words.

    The measure is the Jaccard index of the two sets of lemmas, at least 0.6. A caption without
    content words says the same only as one with the same letters.
    """
    if first == second:
        return True
    ours, theirs = content_lemmas(first), content_lemmas(second)
    if not ours or not theirs or (ours & _TURNING) != (theirs & _TURNING):
        return False
    return len(ours & theirs) >= _THRESHOLD * len(ours | theirs)


@lru_cache(maxsize=4096)
def content_lemmas(text: str) -> frozenset[str]:
    """Lemmas of the words that carry the content, lower case, synonyms made one."""
    words = (word.lower() for word in _WORD.findall(text))
    lemmas = (_lemma(word) for word in words if word not in _FUNCTION_WORDS)
    return frozenset(_SAME.get(lemma, lemma) for lemma in lemmas)


@lru_cache(maxsize=16384)
def _lemma(word: str) -> str:
    lemma: str = simplemma.lemmatize(word, lang="en")
    return lemma.lower()
