"""Feature cache for a frozen encoder: every view of every picture is encoded once.

``features.npy`` is (rows, R, D) float16, memory-mapped; ``index.json`` maps a key to its first
row and its number of frames. View 0 is the picture as it is, view 1 its mirror image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from models.encoders import build_encoder, load_imagenet_weights
from models.training.sources import read_pictures
from models.transforms import to_square

__all__ = ["FeatureCache", "build_cache", "open_cache"]

_BATCH = 32
VIEWS = 2


@dataclass(frozen=True)
class FeatureCache:
    """Cached features by key: ``frames(key, view)`` is (T, R, D) float16."""

    rows: NDArray[np.float16]
    index: dict[str, tuple[int, int]]

    def frames(self, key: str, view: int) -> NDArray[np.float16]:
        """Features of one key, one view; rows of a view lie together, oldest frame first."""
        first, count = self.index[key]
        start = first + view * count
        return self.rows[start : start + count]


def open_cache(folder: Path) -> FeatureCache:
    """Open a finished cache.

    Raises:
        FileNotFoundError: There is none, or its building was cut off.

    """
    index = json.loads((folder / "index.json").read_text())
    rows = np.load(folder / "features.npy", mmap_mode="r")
    return FeatureCache(rows, {key: (first, count) for key, (first, count) in index.items()})


def build_cache(
    data_root: Path, folder: Path, encoder_name: str, side: int, frames_per_clip: int
) -> FeatureCache:
    """Encode everything below ``data_root`` and write the cache; the index is written last."""
    encoder = build_encoder(encoder_name)
    load_imagenet_weights(encoder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder.to(device)
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, tuple[int, int]] = {}
    parts: list[NDArray[np.float16]] = []
    squares = _squares(data_root, side, frames_per_clip, index)
    with torch.inference_mode():
        for batch in _batches(tqdm(squares, desc="encoding", unit=" views", mininterval=5)):
            pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).to(device)
            parts.append(encoder(pixels).half().cpu().numpy())
    np.save(folder / "features.npy", np.concatenate(parts))
    (folder / "index.json").write_text(json.dumps(index))
    return open_cache(folder)


def _squares(
    data_root: Path, side: int, frames_per_clip: int, index: dict[str, tuple[int, int]]
) -> Iterator[NDArray[np.uint8]]:
    row = 0
    for key, frames in read_pictures(data_root, frames_per_clip):
        squares = [to_square(frame, side) for frame in frames]
        index[key] = (row, len(squares))
        row += VIEWS * len(squares)
        yield from squares
        yield from (square[:, ::-1] for square in squares)


def _batches(squares: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    batch: list[NDArray[np.uint8]] = []
    for square in squares:
        batch.append(square)
        if len(batch) == _BATCH:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)
