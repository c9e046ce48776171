"""Grounding: a caption names a hazard when, and only when, the hazard evidence bears it out.

A decoder learns from language how often a word is due; the read-out learns from pictures. Where
they disagree about a hazard, the search is asked again: with the hazard's words forced where the
evidence is strong and the caption silent, without them where it is weak and the caption loud.
The thresholds are chosen on scenes that the read-out was not fitted on and lie in the checkpoint.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from models.decoding import Decoding, Prepared
from models.hazard_words import HAZARD_WORDS, names_hazard
from models.search import Hypothesis
from models.vocabulary import Vocabulary

__all__ = ["Grounding", "Thresholds"]

_SAID_AS = {
    "fire": ("fire", "burning", "burns", "flames"),
    "smoke": ("smoke",),
    "fight": ("fighting", "fight", "fights"),
    "crash": ("crashed", "crash", "accident", "damaged", "collided"),
    "person_down": ("lying", "lies"),
    "weapon": ("gun", "knife", "pistol", "rifle"),
}
Search = Callable[[Prepared, Decoding], list[list[Hypothesis]]]


@dataclass(frozen=True)
class Thresholds:
    """Probabilities of a hazard below which it is not to be said, and from which on it is."""

    deny: float
    say: float


@dataclass(frozen=True)
class Grounding:
    """Thresholds by hazard, and the words of a vocabulary that name each hazard."""

    thresholds: Mapping[str, Thresholds]
    vocabulary: Vocabulary

    def ground(
        self,
        windows: Prepared,
        found: list[list[Hypothesis]],
        probabilities: Mapping[str, Sequence[float]],
        search: Search,
        decoding: Decoding,
    ) -> list[list[Hypothesis]]:
        """Put hypotheses that the evidence bears out first; search again where there are none.

        Args:
            windows: What was searched.
            found: The hypotheses of each window, best first.
            probabilities: Of each hazard in each window.
            search: Searches some of the windows with other options.
            decoding: The options that ``found`` was searched with.

        """
        again: dict[tuple[tuple[str, ...], tuple[str, ...]], list[int]] = defaultdict(list)
        result = list(found)
        for index, paths in enumerate(found):
            said, denied = self._verdict({h: p[index] for h, p in probabilities.items()})
            fitting = [path for path in paths if self._fits(path, said, denied)]
            if fitting:
                result[index] = fitting + [path for path in paths if path not in fitting]
            else:
                again[said, denied].append(index)
        for (said, denied), indices in again.items():
            options = self._options(decoding, said, denied)
            for index, paths in zip(indices, search(windows.select(indices), options), strict=True):
                if paths and self._fits(paths[0], said, denied):
                    result[index] = [*paths, *found[index]][: len(found[index])]
        return result

    def _verdict(
        self, probabilities: Mapping[str, float]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Hazards that must be said, the likeliest alone, and those that must not."""
        known = {h: p for h, p in probabilities.items() if h in self.thresholds}
        strong = [h for h, p in known.items() if p >= self.thresholds[h].say and self._words(h)]
        strong.sort(key=lambda hazard: -known[hazard])
        denied = tuple(h for h, p in known.items() if p < self.thresholds[h].deny)
        return tuple(strong[:1]), denied

    def _fits(self, path: Hypothesis, said: Sequence[str], denied: Sequence[str]) -> bool:
        caption = self.vocabulary.decode(path.tokens)
        return all(names_hazard(caption, hazard) for hazard in said) and not any(
            names_hazard(caption, hazard) for hazard in denied
        )

    def _options(self, decoding: Decoding, said: Sequence[str], denied: Sequence[str]) -> Decoding:
        wanted = {word for hazard in said for word in self._words(hazard)}
        unwanted = {word for hazard in denied for word in HAZARD_WORDS[hazard]} - wanted
        return replace(
            decoding,
            forced_words=tuple(self._words(hazard) for hazard in said),
            forbidden_words=tuple(sorted(w for w in unwanted if w in self.vocabulary)),
        )

    def _words(self, hazard: str) -> tuple[str, ...]:
        return tuple(word for word in _SAID_AS.get(hazard, ()) if word in self.vocabulary)
