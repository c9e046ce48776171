"""From weights over positions to grids over the picture."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.regions import BOX_SIZE, spread_over_grid

__all__ = ["grids_over_picture"]


def grids_over_picture(
    weights: Tensor, features: Tensor, boxes_in_features: bool
) -> NDArray[np.float32]:
    """Lay weights (..., R) out as (..., rows, columns) float32, with the same sum.

    A square grid of regions is its own layout. Regions that carry their boxes, as the last numbers
    of their ``features`` (..., R, D), are spread evenly over them.
    """
    if boxes_in_features:
        boxes = features[..., -BOX_SIZE:].to(weights.device)
        grids = spread_over_grid(weights.float(), boxes.float())
    else:
        side = math.isqrt(weights.shape[-1])
        grids = weights.float().unflatten(-1, (side, side))  # type: ignore[no-untyped-call]
    array: NDArray[np.float32] = grids.cpu().numpy()
    return array
