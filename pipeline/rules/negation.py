"""What takes a keyword back: "no fire", "without a weapon", "pretending to fight", "fake gun".

A cue takes back what follows it within its reach (in words) and within its clause; "no sign of
smoke or fire" takes back both. Things that merely end ("the fight stops") are not negations.

Of a match of several words each may be taken back: "a man holds no gun", "a man is not lying on the
ground". Between two of them a cue must stand close by its word, since what it speaks of may be
something else: "a man with no shoes falls to the ground" is a fall.

Before a match, what somebody has or not ("without", "with no", "holding a toy") is about the noun
phrase that follows and reaches over no verb: a man without a shirt who punches another man does so.
Without a parser a verb is told by its ending, and by an article or "by" behind it. What is taken
for one by mistake raises an alert: rather one too many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from pipeline.rules.patterns import Way
from pipeline.rules.tokens import Token, lemma_of

__all__ = ["negation_of"]

# Cue -> how many words may stand between it and the keyword.
_REACH: dict[tuple[str, ...], int] = {
    ("no",): 4,
    ("not",): 2,
    ("never",): 2,
    ("without",): 5,
    ("nobody",): 2,
    ("no", "one"): 3,
    ("none",): 3,
    ("neither",): 3,
    ("nor",): 3,
    ("absence", "of"): 3,
    ("lack", "of"): 3,
    ("free", "of"): 3,
    ("instead", "of"): 3,
    ("rather", "than"): 3,
    ("pretend",): 3,
    ("pretend", "to"): 3,
    ("imitate",): 3,
    ("fake",): 2,
    ("toy",): 2,
    ("mock",): 2,
    ("staged",): 2,
    ("practice",): 2,
    ("avoid",): 4,
    ("prevent",): 5,
    ("almost",): 1,
    ("nearly",): 1,
    ("narrowly",): 2,
    ("fail", "to"): 1,
}
_LONGEST = 2
_FURTHEST = max(_REACH.values()) + _LONGEST
# Cues that stand before a noun; the others stand before a verb, or what is as good as one.
_OF_NOUNS = {("no",), ("without",), ("none",), ("neither",), ("nor",)} | {
    (word, "of") for word in ("absence", "lack", "free", "instead")
}
_OF_NOUNS |= {("rather", "than"), ("fake",), ("toy",), ("mock",), ("staged",), ("practice",)}
# What may stand between such a cue and its noun without being one itself.
_ARTICLES = "a an another any each every her his its my our some the their these this those your"
_ADJECTIVES = (
    "that sort kind type of sign trace use real true actual visible apparent obvious single other "
    "more such big large small little long sharp loaded open dangerous heavy hidden anyone anybody"
)
# What ends a noun phrase; "of" does not.
_ENDS = (
    "across after against around as at before behind beside by down during for from in inside into "
    "near next off on onto out outside over past through toward towards under until up when where "
    "which who with"
)
_ARTICLE = frozenset(_ARTICLES.split(" "))
_BEFORE_A_NOUN = _ARTICLE | frozenset(_ADJECTIVES.split(" "))
_AFTER_A_NOUN = frozenset(_ENDS.split(" "))
# What stands behind a verb: "with no shirt fights another man", "without a helmet hit by a car".
_AFTER_A_VERB = _ARTICLE | {"by", "everyone", "him", "himself", "it", "someone", "them"}
_PLURALS = frozenset({"children", "men", "people", "women"})
_NOUNS = 2  # words that may stand between a cue and its noun beside those: "rusty kitchen" knife
_MODIFIERS = frozenset({("toy",), ("fake",), ("mock",), ("staged",)})
_HAVING = frozenset({"carry", "have", "hold", "wear", "with"})
# Who acts, where it is said of nobody: "with no people fighting", "without any car crashing".
_WHO = (
    "anybody anyone boy boys car cars child children girl girls man men people person persons "
    "truck trucks vehicle vehicles woman women"
)
_ACTORS = frozenset(_WHO.split(" "))
# Things that no verb is called like: "no hand guns", and yet "fires a gun".
_WHAT = "flame gun handgun knife machete pistol rifle sword weapon"
_THINGS = frozenset(_WHAT.split(" "))
_AUXILIARY = frozenset({"be", "get", "have"})


def negation_of(tokens: Sequence[Token], way: Way) -> str | None:
    """Return the cue that takes back a match, or None; ``way`` is where its words stand.

    Cues that the match itself holds (a keyword "no helmet") are no negation of it.
    """
    begin = way[0][0]
    for at in range(begin - 1, max(-1, begin - 1 - _FURTHEST), -1):
        if tokens[at].clause != tokens[begin].clause:
            break
        if cue := _cue_before(tokens, at, begin):
            return cue
    for (_, since), (begin, end) in pairwise(way):
        for at in range(begin, end):
            if tokens[at].form.endswith("n't"):  # "a car isn't hit", of "car ... be hit"
                return tokens[at].form
        for at in range(since, begin):
            if tokens[at].clause == tokens[begin].clause and (
                cue := _cue_between(tokens, at, begin)
            ):
                return cue
    return None


def _cue_before(tokens: Sequence[Token], at: int, begin: int) -> str | None:
    """The cue at token ``at`` whose reach goes as far as ``begin``."""
    for words, end in _cues_at(tokens, at, begin):
        if begin - end <= _REACH[words] and not (
            _is_had(tokens, words, at) and _is_over(tokens, words, end, begin)
        ):
            return _written(tokens, at, end)
    return None


def _is_had(tokens: Sequence[Token], words: tuple[str, ...], at: int) -> bool:
    """Whether the cue at token ``at`` is about what somebody has or not: "with no", "without"."""
    if words == ("no",) or words in _MODIFIERS:
        while at > 0 and tokens[at - 1].form in _BEFORE_A_NOUN:
            at -= 1
        return at > 0 and not _HAVING.isdisjoint(tokens[at - 1].lemmas)
    return words == ("without",) or words[-1] == "of"


def _is_over(tokens: Sequence[Token], words: tuple[str, ...], end: int, begin: int) -> bool:
    """Whether the noun phrase that begins at ``end`` does before ``begin``: "no shirt punches"."""
    # "toy guns" are toys, and "a toy hits" is what somebody else does.
    many = words in _MODIFIERS and tokens[end - 2].form not in {"a", "an"}
    nouns, plural = 0, False
    for at in range(end, begin):
        token = tokens[at]
        if token.form in {"or", "nor"}:  # "no sign of smoke or fire"
            nouns, plural = 0, False
        elif token.form in {"and", "of"}:
            plural = False
        elif not _AUXILIARY.isdisjoint(token.lemmas):
            if not token.form.endswith("ing"):  # "without being hit"
                return True
        elif token.form in _AFTER_A_NOUN or (
            token.form in _ARTICLE and tokens[at - 1].form != "of"
        ):
            if nouns:
                return True
        elif _BEFORE_A_NOUN.isdisjoint(token.lemmas) and not token.form.endswith("ly"):
            if plural or (nouns and _is_verb(tokens, at, many or _is_joined(tokens, at))):
                return True
            nouns, plural = nouns + 1, _is_plural(token)
    if _goes_on(tokens, begin):
        return _has_object(tokens, begin)
    if plural or nouns > _NOUNS:
        return True
    return (nouns > 0 or words == ("toy",)) and _is_verb(tokens, begin, many)


def _is_plural(token: Token) -> bool:
    return token.form in _PLURALS or (
        token.form.endswith("s") and lemma_of(token.form) != token.form
    )


def _is_verb(tokens: Sequence[Token], at: int, many: bool) -> bool:
    """Whether a word behind a noun is a verb; ``many`` says that it may be a noun's plural."""
    token = tokens[at]
    if _has_object(tokens, at):
        return True
    if not _THINGS.isdisjoint(token.lemmas):
        return False
    if token.form.endswith(("s", "ing")):
        return not many and not token.form.endswith("ss")
    return lemma_of(token.form) != token.form and token.form not in _PLURALS  # "fell", "punched"


def _has_object(tokens: Sequence[Token], at: int) -> bool:
    """Whether what stands behind a word makes a verb of it: "fights another man"."""
    following = tokens[at + 1 : at + 2]
    return any(t.clause == tokens[at].clause and t.form in _AFTER_A_VERB for t in following)


def _is_joined(tokens: Sequence[Token], at: int) -> bool:
    """Whether a word is one of several by "and"; an article begins something else."""
    return tokens[at - 1].form == "and"


def _goes_on(tokens: Sequence[Token], at: int) -> bool:
    """Whether a noun phrase goes on: "no smoke and flames", "no people fighting"."""
    acts = tokens[at].form.endswith("ing") and tokens[at - 1].form in _ACTORS
    return acts or _is_joined(tokens, at)


def _cue_between(tokens: Sequence[Token], at: int, begin: int) -> str | None:
    """The cue at token ``at``, between two words of a match, about the one at ``begin``."""
    one = at > 0 and tokens[at - 1].form in {"a", "an"}
    if one and _is_verb(tokens, begin, many=False):  # "a boy with a toy falls"
        return None
    for words, end in _cues_at(tokens, at, begin):
        others = [token for token in tokens[end:begin] if token.form not in _BEFORE_A_NOUN]
        if len(others) <= (words not in _OF_NOUNS):
            return _written(tokens, at, end)
    return None


def _cues_at(tokens: Sequence[Token], at: int, begin: int) -> Iterator[tuple[tuple[str, ...], int]]:
    """Cues that begin at token ``at`` and end before ``begin``, with the token after them."""
    if tokens[at].form.endswith("n't"):
        yield ("not",), at + 1
    for words in _REACH:
        end = at + len(words)
        if end <= begin and all(map(_says, tokens[at:end], words)):
            yield words, end


def _says(token: Token, word: str) -> bool:
    """Whether a token is a word of a cue; "toys" and "toying" are about no noun that follows."""
    return token.form == word if word == "toy" else word in token.lemmas


def _written(tokens: Sequence[Token], at: int, end: int) -> str:
    return " ".join(token.form for token in tokens[at:end])
