"""Colour: whether a picture shows any, and the words that claim some."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from models.vocabulary import tokenize

__all__ = ["COLOUR", "names_colour", "shows_colour"]

COLOUR = "colour"
"""Its key among the claims that captions are held against."""

_HUES = (
    "red blue green orange brown pink yellow purple violet turquoise teal maroon beige tan gold "
    "golden blond blonde blondes brunette redhead reddish rainbow"
)
_MANY = (
    "color colors colored colorful colorfully multicolor multicolored tricolored colour colours "
    "coloured colourful colourfully multicoloured"
)
_COLOUR_WORDS = frozenset(f"{_HUES} {_MANY}".split())

_SIDE = 32
_LEAST_CHROMA = 4.0


def names_colour(caption: str) -> bool:
    """Whether a caption names a colour, alone or in a compound; black, grey and white are none."""
    parts = (part for word in tokenize(caption) for part in word.split("-"))
    return not _COLOUR_WORDS.isdisjoint(parts)


def shows_colour(picture: NDArray[np.uint8]) -> bool:
    """Whether anything in a picture has a colour.

    It has where chroma, the distance of Cb and Cr (ITU-R BT.601) from grey, exceeds 4 in any of
    32 x 32 fields. Their means hide the noise of single pixels and leave a small red coat.

    Args:
        picture: (H, W, 3) uint8 RGB, as small as an encoder's square or larger.

    """
    fields = cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    chroma = cv2.cvtColor(fields, cv2.COLOR_RGB2YCrCb)[:, :, 1:].astype(np.float32) - 128
    return bool(np.square(chroma).sum(2).max() > _LEAST_CHROMA**2)
