"""One caption against one rule: words, zones, the model's evidence, the schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.messages import Caption, Evidence
from pipeline.rules.evidence import beam_mass, evidence_of
from pipeline.rules.lifecycle import Match
from pipeline.rules.places import in_schedule, in_zones
from pipeline.rules.ruleset import Rule
from pipeline.rules.schema import Zone
from pipeline.rules.sequences import advance_sequence
from pipeline.rules.track import Track
from pipeline.rules.usual import remember, usual_levels

__all__ = ["Judge"]

NO_SPAN = (0, 0)


@dataclass(frozen=True, slots=True)
class Judge:
    """A rule on one camera. ``zones`` are that camera's; ``count`` books why a match is held back.

    Everything is a function of the caption and the track; nothing is remembered elsewhere.
    """

    rule: Rule
    zones: tuple[Zone, ...]
    count: Callable[[str, str], None]

    def match(self, track: Track, caption: Caption) -> Match | None:
        """What the rule finds in a caption, or None; why not is counted."""
        spec = self.rule.spec
        if spec.sequence:
            found = advance_sequence(self.rule, track, caption, self._inside)
        else:
            known = _all_known(self.rule, caption)
            found = self._known(track, caption) if known else self._seen(track, caption)
            remember(track, caption, spec.evidence)
        if found is None or in_schedule(spec.schedule, caption.stamp.captured_at):
            return found
        self._held_back("schedule")
        return None

    def _seen(self, track: Track, caption: Caption) -> Match | None:
        found = self.rule.matcher.match(caption.text)
        if found.blocked is not None:
            self._held_back(found.blocked)
        beams = self._beams(caption, bool(found.hits))
        spoken = evidence_of(caption, found.hits, beams)
        keywords = self._inside(spoken) or self._inside(
            _unspoken(self.rule, caption, beams, self._share(track))
        )
        if keywords and found.vetoed:
            if found.blocked is None:
                self._held_back("vetoed")
            return None
        if keywords:
            return self._sure(track, caption, keywords)
        if spoken:
            self._held_back("zone")
        return None

    def _known(self, track: Track, caption: Caption) -> Match | None:
        """Go by the evidence of ``where_known`` alone, said or unsaid."""
        spec = self.rule.spec.where_known
        assert spec is not None  # only then is it known
        if self.rule.matcher.match(caption.text).vetoed:
            self._held_back("vetoed")
            return None
        least, share = spec.concepts, self._share(track)
        concepts = {word: caption.concepts[word] for word in least}
        if any(concept.probability < share * least[word] for word, concept in concepts.items()):
            return None
        found = [
            Evidence(f"concept:{word}", "", NO_SPAN, concept.probability, None, concept.region)
            for word, concept in concepts.items()
        ]
        if len(self._inside(found)) < len(found):
            self._held_back("zone")
            return None
        measured = {item.keyword: item.probability for item in found}
        probability = max(measured.values())
        return Match(tuple(found), probability, evidence=measured, confirm=spec.confirm)

    def _beams(self, caption: Caption, matched: bool) -> float | None:
        if not matched and self.rule.spec.evidence.or_beams is None:
            return None
        return beam_mass(caption, lambda text: bool(self.rule.matcher.match(text).hits))

    def _inside(self, keywords: Iterable[Evidence]) -> list[Evidence]:
        return [evidence for evidence in keywords if in_zones(evidence.region, self.zones)]

    def _sure(self, track: Track, caption: Caption, keywords: Sequence[Evidence]) -> Match | None:
        """Hold the evidence against the rule's thresholds; None when it is too weak."""
        spec = self.rule.spec
        usual, beams = usual_levels(track, caption, spec.evidence), keywords[0].beams
        share = self._share(track)
        for name, (value, least) in _required(self.rule, caption, beams, usual, share).items():
            if value < least:
                self._held_back(name.partition(":")[0])
                return None
        probability = max(item.probability for item in keywords)
        keep = spec.min_probability if spec.keep_probability is None else spec.keep_probability
        if probability < (spec.min_probability if track.alert is None else keep):
            self._held_back("min_probability")
            return None
        measured = _measured(self.rule, caption, keywords)
        measured |= {f"usual:{word}": level for word, level in usual.items()}
        return Match(tuple(keywords), probability, evidence=measured)

    def _share(self, track: Track) -> float:
        """At which share of its thresholds evidence counts: an open alert may go on at less."""
        return 1.0 if track.alert is None else self.rule.spec.evidence.keep_share

    def _held_back(self, reason: str) -> None:
        self.count(self.rule.spec.name, reason)


def _all_known(rule: Rule, caption: Caption) -> bool:
    """Whether the caption has all the evidence that is to decide where it is known."""
    spec = rule.spec.where_known
    return spec is not None and spec.concepts.keys() <= caption.concepts.keys()


def _required(
    rule: Rule, caption: Caption, beams: float | None, usual: Mapping[str, float], share: float
) -> Mapping[str, tuple[float, float]]:
    """Evidence that the rule needs and the captioner gives: name to (value, least)."""
    spec = rule.spec.evidence
    needed = {
        f"concept:{word}": (caption.concepts[word].probability, share * least)
        for word, least in spec.concepts.items()
        if word in caption.concepts
    }
    for sentence, least in spec.probes.items():
        if sentence in caption.scores:
            needed[f"probe:{sentence}"] = (caption.scores[sentence], least)
    for word, least in spec.above_usual.items():
        if word in caption.concepts and word in usual:
            above = caption.concepts[word].probability - usual[word]
            needed[f"above_usual:{word}"] = (above, share * least)
    if beams is not None:
        needed["beams"] = (beams, share * spec.beams)
    return needed


def _measured(rule: Rule, caption: Caption, keywords: Sequence[Evidence]) -> dict[str, float]:
    """All the evidence the alert is to show, whether a threshold hangs on it or not."""
    spec = rule.spec.evidence
    measured = {
        f"concept:{word}": caption.concepts[word].probability
        for word in (*spec.concepts, *spec.or_concepts, *spec.above_usual)
        if word in caption.concepts
    }
    for sentence in (*spec.probes, *spec.or_probes):
        if sentence in caption.scores:
            measured[f"probe:{sentence}"] = caption.scores[sentence]
    if keywords[0].beams is not None:
        measured["beams"] = keywords[0].beams
    return measured


def _unspoken(rule: Rule, caption: Caption, beams: float | None, share: float) -> list[Evidence]:
    """Evidence for a rule whose words are not in the best caption: concepts, probes, beams."""
    spec = rule.spec.evidence
    found: list[Evidence] = []
    for word, least in spec.or_concepts.items():
        concept = caption.concepts.get(word)
        if concept is not None and concept.probability >= share * least:
            found.append(
                Evidence(f"concept:{word}", "", NO_SPAN, concept.probability, beams, concept.region)
            )
    for sentence, least in spec.or_probes.items():
        nats = caption.scores.get(sentence)
        if nats is not None and nats >= least:
            found.append(Evidence(f"probe:{sentence}", "", NO_SPAN, _at_even_odds(nats), beams))
    if spec.or_beams is not None and beams is not None and beams >= share * spec.or_beams:
        found.append(Evidence("beams", "", NO_SPAN, beams, beams))
    return found


def _at_even_odds(nats: float) -> float:
    """Probability of a sentence whose evidence is ``nats``, had it been as likely as not before."""
    return 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, nats))))
