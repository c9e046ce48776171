"""Motion that goes every way at once: how much two pictures a tenth of a second apart look like it.

Somebody who walks and a car that drives move in one piece, and an affine motion of the picture
explains nearly all of it. People who fight do not. Four numbers of a dense optical flow (Kroeger et
al. 2016) say how little is explained, and a logistic regression makes log-odds of them. They know
no scene, and ask for no network; their weights were fitted by ``python -m benchmarks.scuffle``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.pictures import shrink_to

__all__ = [
    "BEFORE_S",
    "SCUFFLE",
    "Grey",
    "ScuffleNumbers",
    "log_odds",
    "motion_picture",
    "probability_of",
    "scuffle_numbers",
]

SCUFFLE = "scuffle"
"""The concept by which rules ask for it."""
BEFORE_S = 0.1
"""So long before the picture that is looked at lies the one that it is held against, seconds."""

ScuffleNumbers = tuple[float, float, float, float]
"""Coherence, what affine motion leaves, strain, what all motion leaves: all without a unit."""

_WIDTH = 192
_FEWEST_ROWS = 32
_CHANGED = 15  # grey levels
_MOVES = 0.02  # picture widths a second
_REGIONS = 3
_SMALLEST_REGION = 20  # pixels
_FEWEST_LOOKS = 2
_STRIDE = 3  # pixels that the median of the flow is taken of
_AXES = ((1, 0), (0, 1))
_NEAR = np.ones((5, 5), np.uint8)
_NOT_SINGULAR = 1e-6 * np.eye(2, dtype=np.float32)
_OFFSET = 7.810
_WEIGHTS = (-9.238, 1.705, -0.420, 3.313)

Grey = NDArray[np.uint8]
Flow = NDArray[np.float32]


def motion_picture(image: NDArray[np.uint8]) -> Grey:
    """Make (H, W, 3) uint8 BGR small and grey: (h, 192) uint8 in its own aspect."""
    rows = max(_FEWEST_ROWS, round(image.shape[0] * _WIDTH / image.shape[1]))
    small = shrink_to(image, _WIDTH, rows)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.uint8)


def log_odds(before: Grey, now: Grey, gap_s: float) -> float:
    """Log-odds of a scuffle by two pictures of :func:`motion_picture`, ``gap_s`` apart."""
    numbers = scuffle_numbers(before, now, gap_s)
    return _OFFSET + sum(w * n for w, n in zip(_WEIGHTS, numbers, strict=True))


def probability_of(looks: Sequence[float | None]) -> float | None:
    """Probability of a scuffle by the log-odds of a window's looks; None for fewer than two.

    None among them are looks that had no picture before them: they count for nothing.
    """
    known = [look for look in looks if look is not None]
    if len(known) < _FEWEST_LOOKS:
        return None
    mean = max(-30.0, min(30.0, sum(known) / len(known)))
    return 1.0 / (1.0 + math.exp(-mean))


def scuffle_numbers(before: Grey, now: Grey, gap_s: float) -> ScuffleNumbers:
    """Four numbers of how little of the motion between two pictures moves in one piece.

    Args:
        before: Picture of :func:`motion_picture`.
        now: The like, of the same size.
        gap_s: Seconds between the two, above zero.

    Returns:
        Over the regions with most motion (weighed by it) the length of the mean velocity over the
        mean speed, and the share of speed that an affine motion leaves; then, over all that moves,
        strain by speed (log of 1 and more), and which share of the change the flow leaves.

    """
    flow = _flow(before, now)
    usual = np.median(flow[::_STRIDE, ::_STRIDE].reshape(-1, 2), 0)
    scale = np.float32(1 / (_WIDTH * gap_s))
    across, down = (
        part - at for part, at in zip(cv2.split(flow * scale), usual * scale, strict=True)
    )
    speed = np.asarray(cv2.magnitude(across, down), np.float32)
    change = cv2.absdiff(before, now)
    moves = (change > _CHANGED) & (speed > _MOVES)
    at = np.flatnonzero(moves)
    moved = float(speed.ravel()[at].sum())
    coherence, left = _regions(_Moving.of(across, down, speed, at), moves)
    strain = float(_strain(across, down).ravel()[at].sum()) / (moved + 1e-4 * moves.size)
    unexplained = int(cv2.absdiff(before, _warped(now, flow)).ravel()[at].sum())
    changed = int(change.ravel()[at].sum())
    return coherence, left, math.log1p(strain), unexplained / (changed + 0.03 * moves.size)


def _flow(before: Grey, now: Grey) -> Flow:
    """Displacement of each pixel, (h, w, 2), in pixels."""
    return np.asarray(_flow_method().calc(before, now, None), np.float32)  # type: ignore[call-overload]


@cache
def _flow_method() -> cv2.DISOpticalFlow:
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)


@cache
def _pixels(rows: int, columns: int) -> Flow:
    """Column and row of each pixel, (h, w, 2)."""
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    return np.stack((x, y), 2)


def _warped(now: Grey, flow: Flow) -> Grey:
    """Take a picture back by the flow that led to it."""
    source = _pixels(*now.shape) + flow
    taken = cv2.remap(now, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return np.asarray(taken, np.uint8)


def _strain(across: Flow, down: Flow) -> Flow:
    """Length of the velocity's gradient, (h, w), in widths a second by width."""
    lengths = [
        cv2.magnitude(*(cv2.Sobel(part, cv2.CV_32F, *axis, ksize=3, scale=0.125) for axis in _AXES))
        for part in (across, down)
    ]
    return np.asarray(cv2.magnitude(*lengths) * np.float32(_WIDTH), np.float32)


class _Moving(NamedTuple):
    """Pixels that move, each (n,): index into the picture, place and velocity in widths."""

    at: NDArray[np.intp]
    places: Flow
    velocity: Flow
    speed: Flow

    @classmethod
    def of(cls, across: Flow, down: Flow, speed: Flow, at: NDArray[np.intp]) -> _Moving:
        rows, columns = np.divmod(at, speed.shape[1])
        places = np.stack((columns, rows), 1).astype(np.float32) / np.float32(_WIDTH)
        velocity = np.stack((across.ravel()[at], down.ravel()[at]), 1)
        return cls(at, places, velocity, speed.ravel()[at])


def _regions(moving: _Moving, moves: NDArray[np.bool_]) -> tuple[float, float]:
    """Coherence, and the share of speed that affine motion leaves, of what moves together.

    Where nothing moves it is 1 and 0: all in one piece.
    """
    near = cv2.dilate(moves.view(np.uint8), _NEAR)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(near)
    labels = labels.ravel()[moving.at]
    motion = np.bincount(labels, moving.speed, count)
    motion[stats[:, cv2.CC_STAT_AREA] < _SMALLEST_REGION] = 0.0
    most = [label for label in np.argsort(-motion)[:_REGIONS] if motion[label] > 0]
    if not most:
        return 1.0, 0.0
    found = np.array([_one(moving, np.flatnonzero(labels == label)) for label in most])
    coherence, left = motion[most] @ found / motion[most].sum()
    return float(coherence), float(left)


def _one(moving: _Moving, inside: NDArray[np.intp]) -> tuple[float, float]:
    """Coherence of one region's pixels, and the share of speed that affine motion leaves."""
    total = float(moving.speed[inside].sum()) + 1e-6
    velocity, places = moving.velocity[inside], moving.places[inside]
    mean = velocity.mean(0)
    centred, places = velocity - mean, places - places.mean(0)
    spread = places.T @ places + _NOT_SINGULAR
    rest = centred - places @ np.linalg.solve(spread, places.T @ centred)
    coherence = float(np.hypot(mean[0], mean[1])) * len(inside) / total
    return coherence, float(np.sqrt((rest * rest).sum(1)).sum()) / total
