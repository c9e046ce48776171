"""What a camera usually shows: a concept's evidence against the median of its last minutes.

A scene can look a little like a hazard all day long. Its evidence is then always the same, and a
threshold for all cameras is either too low for this one or too high for the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from pipeline.messages import Caption
from pipeline.rules.schema import EvidenceSpec
from pipeline.rules.track import Track

__all__ = ["remember", "usual_levels"]

_SAMPLES = 60
"""The last minutes are remembered by so many values of each word, evenly spaced."""
_ENOUGH = 12
"""So many must be there before they say what is usual: a fifth of the time."""


def usual_levels(track: Track, caption: Caption, spec: EvidenceSpec) -> Mapping[str, float]:
    """Median evidence (0..1) of each word on this camera, where there is enough to tell."""
    recent = {word: _recent(track, word, caption, spec) for word in spec.above_usual}
    return {
        word: median(value for _, value in samples)
        for word, samples in recent.items()
        if len(samples) >= _ENOUGH
    }


def remember(track: Track, caption: Caption, spec: EvidenceSpec) -> None:
    """Take in a caption's evidence of the words that a rule holds against what is usual."""
    now_s = caption.stamp.time_s
    for word in track.usual.keys() - spec.above_usual.keys():  # of rules that were changed
        del track.usual[word]
    for word in spec.above_usual:
        if word not in caption.concepts:
            continue
        samples = _recent(track, word, caption, spec)
        if not samples or now_s - samples[-1][0] >= spec.usual_over_s / _SAMPLES:
            samples.append((now_s, caption.concepts[word].probability))
        track.usual[word] = samples


def _recent(
    track: Track, word: str, caption: Caption, spec: EvidenceSpec
) -> list[tuple[float, float]]:
    oldest_s = caption.stamp.time_s - spec.usual_over_s
    return [sample for sample in track.usual.get(word, []) if sample[0] >= oldest_s]
