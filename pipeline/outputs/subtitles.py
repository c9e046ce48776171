"""Cues as WebVTT (https://www.w3.org/TR/webvtt1/) and SubRip, written by pysubs2."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import pysubs2

from pipeline.outputs.cues import Cue

__all__ = ["one_line", "to_srt", "to_webvtt"]

_LIMIT_MS = pysubs2.make_time(h=100)
"""Hours have two digits: what lies beyond 100 hours of one recording is left out."""
_SPACES = re.compile(r"\s+")
_VTT_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
# SubRip has no escapes, and players take <...> and {...} for markup.
_SRT_LOOKALIKES = str.maketrans({"<": "‹", ">": "›", "{": "(", "}": ")"})


def to_webvtt(cues: Iterable[Cue]) -> str:
    """A WebVTT file; ``&``, ``<`` and ``>`` (so ``-->`` too) are escaped."""
    return _written(cues, "vtt", _VTT_ESCAPES)


def to_srt(cues: Iterable[Cue]) -> str:
    """A SubRip file; brackets become look-alikes, for the format cannot escape them."""
    return _written(cues, "srt", _SRT_LOOKALIKES)


def one_line(text: str) -> str:
    """The text as a subtitle can carry it: one line, no control characters.

    A backslash becomes ``⧵`` (U+29F5), for players take ``\\N`` and the like as commands.
    """
    kept = "".join(
        " " if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} else char for char in text
    )
    return _SPACES.sub(" ", kept).strip().replace("\\", "⧵")


def _written(cues: Iterable[Cue], form: str, escapes: dict[int, str]) -> str:
    subtitles = pysubs2.SSAFile()
    for cue in sorted(cues, key=lambda each: (each.start_ms, each.severity is None, each.end_ms)):
        text = one_line(cue.text).translate(escapes)
        if text and cue.end_ms < _LIMIT_MS:
            subtitles.append(pysubs2.SSAEvent(start=cue.start_ms, end=cue.end_ms, text=text))
    return subtitles.to_string(form, keep_ssa_tags=True, apply_styles=False)
