"""What the archive keeps of a caption beside its text, so that rules can be replayed on it.

It is what a caption's line in the JSONL holds (:mod:`pipeline.outputs.lines`): the words'
probabilities, the other beams, concepts and probes. The form is the store's own: a third smaller
than a line when both are compressed, some 460 bytes a caption, and it keeps two things a line does
not tell, a beam's exact log-probability and whether the caption was finished.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import astuple
from typing import Any

from pipeline.messages import Alternative, Caption, Concept, Region, Word

__all__ = ["packed_evidence", "with_evidence"]

_DIGITS = 6


def packed_evidence(caption: Caption) -> bytes:
    """Pack all that :func:`with_evidence` brings back."""
    kept = {
        "model": caption.model,
        "finished": caption.finished,
        "words": [[word.text, _short(word.probability)] for word in caption.words],
        "beams": [[beam.text, _short(beam.log_probability)] for beam in caption.alternatives],
        "concepts": {word: _concept(found) for word, found in caption.concepts.items()},
        "scores": {text: _short(nats) for text, nats in caption.scores.items()},
    }
    text = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
    return zlib.compress(text.encode("utf-8", "surrogatepass"))


def with_evidence(caption: Caption, packed: bytes) -> Caption:
    """Give a caption of the archive back what was packed of it."""
    kept: dict[str, Any] = json.loads(zlib.decompress(packed).decode("utf-8", "surrogatepass"))
    return Caption(
        stamp=caption.stamp,
        text=caption.text,
        log_probability=caption.log_probability,
        words=tuple(Word(*word) for word in kept["words"]),
        alternatives=tuple(Alternative(*beam) for beam in kept["beams"]),
        model=kept["model"],
        concepts={
            word: Concept(probability, None if box is None else Region(*box))
            for word, (probability, box) in kept["concepts"].items()
        },
        scores=kept["scores"],
        finished=kept["finished"],
    )


def _concept(found: Concept) -> list[Any]:
    box = None if found.region is None else [_short(side) for side in astuple(found.region)]
    return [_short(found.probability), box]


def _short(number: float) -> float:
    return round(number, _DIGITS)
