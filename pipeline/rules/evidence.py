"""How sure the model was of what a rule found, and where it looked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.attention import region_of
from pipeline.messages import Caption, Evidence, Word
from pipeline.rules.matcher import Hit

__all__ = ["beam_mass", "evidence_of", "word_spans"]


def evidence_of(caption: Caption, hits: Sequence[Hit], beams: float | None) -> list[Evidence]:
    """Make evidence of hits in ``caption.text``.

    ``probability`` is the least of the matched words' probabilities: a phrase is as sure as its
    weakest word, whatever its length. Without word probabilities it is the caption's own per
    word (geometric mean), which is 1 for text written by people.
    """
    spans = word_spans(caption)
    return [_evidence(caption, hit, spans, beams) for hit in hits]


def _evidence(
    caption: Caption, hit: Hit, spans: list[tuple[int, int, Word]], beams: float | None
) -> Evidence:
    start, end = hit.span
    words = [word for begin, stop, word in spans if begin < end and start < stop]
    maps = [word.attention for word in words if word.attention is not None]
    return Evidence(
        keyword=hit.keyword,
        matched=caption.text[start:end],
        span=hit.span,
        probability=min((word.probability for word in words), default=_per_word(caption)),
        beams=beams,
        region=region_of(np.mean(maps, axis=0)) if maps else None,
    )


def word_spans(caption: Caption) -> list[tuple[int, int, Word]]:
    """Align ``caption.words`` with the text: (start, end, word), words not found left out."""
    text = caption.text.lower()
    spans: list[tuple[int, int, Word]] = []
    at = 0
    for word in caption.words:
        start = text.find(word.text.lower(), at)
        if start < 0:
            continue
        at = start + len(word.text)
        spans.append((start, at, word))
    return spans


def _per_word(caption: Caption) -> float:
    count = len(caption.text.split()) + 1  # the end token is in the sum too
    return float(math.exp(min(0.0, caption.log_probability) / count))


def beam_mass(caption: Caption, matches: Callable[[str], bool]) -> float | None:
    """Share of beam probability (softmax over log probabilities) whose text matches.

    None when the captioner gave no other beams.
    """
    if not caption.alternatives:
        return None
    beams = [(caption.text, caption.log_probability)]
    beams += [(beam.text, beam.log_probability) for beam in caption.alternatives]
    top = max(log_probability for _, log_probability in beams)
    weights = [math.exp(log_probability - top) for _, log_probability in beams]
    matched = [weight for (text, _), weight in zip(beams, weights, strict=True) if matches(text)]
    return sum(matched) / sum(weights)
