"""Grounding: a caption names a hazard when, and only when, the hazard evidence bears it out.

And it names no people where the visual concepts see none, and no colour where the picture has none.

A decoder learns from language how often a word is due; the read-out learns from pictures. Where
they disagree about a hazard, the search is asked again: without the hazard's words where the
evidence is weak and the caption loud, with them forced where it is strong and the caption silent.
A forced word has to fit: where it makes the caption much less likely, the caption stays silent.
What is held against evidence stands in :mod:`models.claims`, the thresholds lie in the checkpoint
(docs/adr/0033-hazard-words.md, docs/adr/0036-no-people-where-none-are-seen.md,
docs/adr/0038-no-colours-where-there-are-none.md).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from models.claims import CLAIMS
from models.colour import COLOUR
from models.decoding import Decoding, Prepared
from models.hazard_words import suggests_hazard
from models.people_words import PEOPLE
from models.search import Hypothesis
from models.vocabulary import Vocabulary

__all__ = ["Grounding", "Thresholds", "people_thresholds"]

_AT_MOST = 2
"""So many hazards are forced into a caption; more make no sentence."""
Search = Callable[[Prepared, Decoding], list[list[Hypothesis]]]


@dataclass(frozen=True)
class Thresholds:
    """Probabilities of a kind of claim below which it is not said, and from which on it is.

    ``cost`` is how much of a caption's score, log P over its length penalty in nats, naming the
    hazard may take; None: any.
    """

    deny: float
    say: float
    cost: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for thresholds that contradict each other."""
        if not (0 <= self.deny <= self.say and (self.cost is None or self.cost >= 0)):
            raise ValueError(f"thresholds with 0 <= deny <= say and cost >= 0, not {self}")


def people_thresholds(deny: float) -> dict[str, Thresholds]:
    """Return thresholds by which people are never forced, and not said below a probability."""
    return {PEOPLE: Thresholds(deny, say=1.0)}


_COLOUR_THRESHOLDS = Thresholds(deny=0.5, say=1.0)
"""Pixels are certain: the probability is 0 or 1."""


@dataclass(frozen=True)
class _Verdict:
    """Hazards that a caption must name, and kinds of claims that it must not make."""

    said: tuple[str, ...]
    denied: tuple[str, ...]


@dataclass(frozen=True)
class Grounding:
    """Thresholds by hazard and of people, those of a checkpoint, and its vocabulary."""

    thresholds: Mapping[str, Thresholds]
    vocabulary: Vocabulary

    @cached_property
    def held(self) -> Mapping[str, Thresholds]:
        """Thresholds of every kind of claim that is held against evidence."""
        return {**self.thresholds, COLOUR: _COLOUR_THRESHOLDS}

    @cached_property
    def _words_of(self) -> Mapping[str, tuple[str, ...]]:
        """Words of the vocabulary that alone make each kind of claim."""
        said = self.vocabulary.said
        return {kind: tuple(filter(claim.named_in, said)) for kind, claim in CLAIMS.items()}

    def ground(
        self,
        windows: Prepared,
        found: list[list[Hypothesis]],
        probabilities: Mapping[str, Sequence[float]],
        search: Search,
        decoding: Decoding,
    ) -> list[list[Hypothesis]]:
        """Put hypotheses that the evidence bears out first; search again where there are none.

        What is denied comes first, then one hazard after the other, the likeliest before the
        others, is said where the caption bears it: two at most.

        Args:
            windows: What was searched.
            found: The hypotheses of each window, best first.
            probabilities: Of each kind of claim in each window.
            search: Searches some of the windows with other options.
            decoding: The options that ``found`` was searched with.

        """
        evidence = [{h: p[i] for h, p in probabilities.items()} for i in range(len(found))]
        strong = [self._strong(one, decoding) for one in evidence]
        held = {i: _Verdict((), self._denied(one)) for i, one in enumerate(evidence)}
        result = list(found)
        self._hold(windows, result, held, search, decoding)
        for rank in range(max(map(len, strong), default=0)):
            asked = {
                i: _Verdict((*held[i].said, hazards[rank]), held[i].denied)
                for i, hazards in enumerate(strong)
                if rank < len(hazards) and len(held[i].said) < _AT_MOST
            }
            for i in self._hold(windows, result, asked, search, decoding):
                held[i] = asked[i]
        return result

    def _hold(
        self,
        windows: Prepared,
        result: list[list[Hypothesis]],
        verdicts: Mapping[int, _Verdict],
        search: Search,
        decoding: Decoding,
    ) -> list[int]:
        """Put captions that fit first, in place; returns the windows for which there are any."""
        again: dict[_Verdict, list[int]] = defaultdict(list)
        met = []
        for index, verdict in verdicts.items():
            paths = result[index]
            if fitting := self._fitting(paths, paths, verdict):
                result[index] = fitting + [path for path in paths if path not in fitting]
                met.append(index)
            else:
                again[verdict].append(index)
        for verdict, indices in again.items():
            options = self._options(decoding, verdict)
            for index, paths in zip(indices, search(windows.select(indices), options), strict=True):
                if fitting := self._fitting(paths, result[index], verdict):
                    result[index] = [*fitting, *result[index]][: len(result[index])]
                    met.append(index)
        return met

    def _fitting(
        self, paths: Sequence[Hypothesis], before: Sequence[Hypothesis], verdict: _Verdict
    ) -> list[Hypothesis]:
        """Those that name what is to be said, at a bearable cost, and nothing that is denied.

        The cost is that of the hazard named last, beside captions that name the others alone.
        """
        least = -math.inf
        *others, last = verdict.said or (None,)
        if last is not None and (cost := self.held[last].cost) is not None:
            without = replace(verdict, said=tuple(others))
            alike = [path for path in before if self._fits(path, without)]
            least = max(path.score for path in alike or before) - cost
        return [path for path in paths if path.score >= least and self._fits(path, verdict)]

    def _strong(self, probabilities: Mapping[str, float], decoding: Decoding) -> list[str]:
        """Hazards that evidence alone makes captions say, the likeliest first."""
        known = {
            h: p for h, p in probabilities.items() if h in self.held and self._said_as(h, decoding)
        }
        strong = [hazard for hazard, p in known.items() if p >= self.held[hazard].say]
        return sorted(strong, key=lambda hazard: -known[hazard])

    def _denied(self, probabilities: Mapping[str, float]) -> tuple[str, ...]:
        return tuple(
            kind
            for kind, probability in probabilities.items()
            if kind in self.held and probability < self.held[kind].deny
        )

    def _fits(self, path: Hypothesis, verdict: _Verdict) -> bool:
        caption = self.vocabulary.decode(path.tokens)
        return all(suggests_hazard(caption, hazard) for hazard in verdict.said) and not any(
            CLAIMS[kind].named_in(caption) for kind in verdict.denied
        )

    def _options(self, decoding: Decoding, verdict: _Verdict) -> Decoding:
        forced = tuple(self._said_as(hazard, decoding) for hazard in verdict.said)
        wanted = {word for words in forced for word in words}
        unwanted = {word for kind in verdict.denied for word in self._words_of[kind]} - wanted
        forbidden = tuple(sorted({*decoding.forbidden_words, *unwanted}))
        return replace(decoding, forced_words=forced, forbidden_words=forbidden)

    def _said_as(self, kind: str, decoding: Decoding) -> tuple[str, ...]:
        return tuple(
            word
            for word in CLAIMS[kind].said_as
            if word in self.vocabulary and word not in decoding.forbidden_words
        )
