"""A closer look for small fires: at the brightest warm spot of a window's newest frame.

A flame of 15 pixels is too small for features of 32. So a window of 56 of the square's 256 pixels,
around what is bright and warm beside its surroundings, is enlarged and run through the encoder's
lower stages, and a read-out of its own tells how much likelier a fire is for what they see. Its
nats are added to what the whole picture says (docs/adr/0043-a-closer-look-for-fires.md).
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = [
    "FIRE",
    "POSSIBLE",
    "SPOT_SIDE",
    "CloserLook",
    "Spot",
    "Spotted",
    "spot_features",
    "warm_spot",
    "warmth",
]

FIRE = "fire"
"""The hazard that is looked at more closely."""
POSSIBLE = 0.005
"""Least probability by the whole picture at which it is worth a closer look."""
SPOT_SIDE = 128

_WINDOW_SHARE = 56 / 256

Square = NDArray[np.uint8]


def warmth(square: Square) -> NDArray[np.float32]:
    """How much brighter than its surroundings and how warm each place of (S, S, 3) RGB is.

    Surroundings are those of a square of 256 pixels, whatever the size.
    """
    red, green, blue = (square[..., channel].astype(np.float32) / 255 for channel in range(3))
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    warm = np.clip(2 * (red - blue), 0, 1) * red
    stands_out = np.clip(cv2.blur(grey, (7, 7)) - cv2.blur(grey, (29, 29)), 0, 1)
    # Night cameras see no colour: there brightness alone chooses.
    return np.asarray(stands_out * (cv2.blur(warm, (7, 7)) + 0.1), np.float32)


class Spot(NamedTuple):
    """A part of a square, enlarged: (side, side, 3) uint8 RGB; where it was, in parts of one."""

    picture: Square
    left: float
    top: float
    size: float

    def mark(self, grid: NDArray[np.float32], nats: float) -> None:
        """Add nats, in place, to each cell of a (rows, columns) grid whose middle lies in it.

        Where cells are so large that none does, to the nearest.
        """
        sides = ((self.top, grid.shape[0]), (self.left, grid.shape[1]))
        grid[np.ix_(*(self._along(start, cells) for start, cells in sides))] += nats

    def _along(self, start: float, cells: int) -> NDArray[np.intp]:
        middles = (np.arange(cells) + 0.5) / cells
        apart = np.abs(middles - (start + self.size / 2))
        inside = np.flatnonzero(apart <= self.size / 2)
        return inside if len(inside) else np.array([apart.argmin()])


class Spotted(NamedTuple):
    """What a closer look at a spot came to: nats by which a fire is likelier than before."""

    spot: Spot
    nats: float


def warm_spot(square: Square, side: int = SPOT_SIDE) -> Spot:
    """Enlarge the window around the brightest warm spot of (S, S, 3)."""
    height, width = square.shape[:2]
    window = round(_WINDOW_SHARE * height)
    y, x = divmod(int(warmth(square).argmax()), width)
    top = min(max(y - window // 2, 0), height - window)
    left = min(max(x - window // 2, 0), width - window)
    cut = square[top : top + window, left : left + window]
    enlarged = cv2.resize(cut, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    return Spot(enlarged, left / width, top / height, window / height)


def spot_features(maps: Tensor) -> Tensor:
    """Strongest and mean of (N, C, H, W) maps, beside their roots and squares: (N, 6 C)."""
    flat = maps.flatten(2)
    pooled = torch.cat((flat.amax(2), flat.mean(2)), 1)
    return torch.cat((pooled, pooled.sign() * pooled.abs().sqrt(), pooled.square()), 1)


class CloserLook(nn.Module):
    """Linear read-out of the spot's maps; fitted in one go, never trained by gradients.

    Attributes:
        after: How many stages of the encoder the maps come after.

    """

    weights: Tensor
    offset: Tensor

    def __init__(self, channels: int, after: int) -> None:
        super().__init__()
        self.after = after
        self.register_buffer("weights", torch.zeros(6 * channels))
        self.register_buffer("offset", torch.zeros(()))

    def forward(self, maps: Tensor) -> Tensor:
        """Nats by which a fire is likelier than before, (N,), from (N, C, H, W) maps of spots."""
        return spot_features(maps.float()) @ self.weights + self.offset

    @staticmethod
    def weigh(before: Tensor, nats: Tensor) -> Tensor:
        """Probability of a fire, (N,), from what it was before and by how much it is likelier."""
        return torch.sigmoid(torch.logit(before.float(), 1e-6) + nats)
