"""Cues as WebVTT (https://www.w3.org/TR/webvtt1/) and SubRip, written by pysubs2."""

from __future__ import annotations

from collections.abc import Iterable

import pysubs2

from pipeline.outputs.cues import Cue
from pipeline.outputs.lines import printable

__all__ = ["to_srt", "to_webvtt"]

_LIMIT_MS = pysubs2.make_time(h=100)
"""Hours have two digits: what lies beyond 100 hours of one recording is left out."""
_VTT_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
# Players take \N, \n and \h for commands, so a backslash becomes its look-alike U+29F5.
# SubRip has no escapes, and players take <...> and {...} for markup.
_SRT_LOOKALIKES = str.maketrans({"<": "‹", ">": "›", "{": "(", "}": ")"})


def to_webvtt(cues: Iterable[Cue]) -> str:
    """Write a WebVTT file; ``&``, ``<`` and ``>`` (so ``-->`` too) are escaped."""
    return _written(cues, "vtt", _VTT_ESCAPES)


def to_srt(cues: Iterable[Cue]) -> str:
    """Write a SubRip file; brackets become look-alikes, for the format cannot escape them."""
    return _written(cues, "srt", _SRT_LOOKALIKES)


def _written(cues: Iterable[Cue], form: str, escapes: dict[int, str]) -> str:
    subtitles = pysubs2.SSAFile()
    for cue in sorted(cues, key=lambda each: (each.start_ms, each.severity is None, each.end_ms)):
        text = printable(cue.text).replace("\\", "⧵").translate(escapes)
        if text and cue.end_ms < _LIMIT_MS:
            subtitles.append(pysubs2.SSAEvent(start=cue.start_ms, end=cue.end_ms, text=text))
    return subtitles.to_string(form, keep_ssa_tags=True, apply_styles=False)
