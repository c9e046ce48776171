"""The data an evaluation runs on: named sets and files, and windows of features of them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.captioner import Captioner, Window
from models.training.corruptions import corrupt
from models.training.features import FeatureCache
from models.training.sources import (
    DataError,
    Sample,
    captions_of,
    hazards_of,
    read_pictures,
    read_samples,
    refuse_misspelt,
    refuse_twice,
)

__all__ = [
    "Corruption",
    "cached_windows",
    "encoded_windows",
    "named_split",
    "read_data",
    "read_frames",
]

_BATCH_CLIPS = 16
_SPLITS = ("train", "val", "test")
Clip = NDArray[np.uint8]
Windows = Iterator[tuple[str, Window]]


@dataclass(frozen=True)
class Corruption:
    """A corruption of :mod:`models.training.corruptions` at a severity from 1 to 5."""

    name: str
    severity: int

    def __call__(self, key: str, frames: Clip) -> Clip:
        """Corrupt (T, H, W, 3) frames, each clip in a way of its own, all its frames alike."""
        seed = zlib.crc32(key.encode())
        seen = [
            corrupt(self.name, frame, self.severity, np.random.default_rng(seed))
            for frame in frames
        ]
        return np.stack(seen)


def read_data(name: str, root: Path, split: str | None, clips: bool) -> list[Sample]:
    """Read the samples of a named set's split, or of a file of JSON lines.

    Raises:
        FileNotFoundError: The data are not there.
        DataError: No sample is left, or a line of the file cannot be used.

    """
    if Path(name).suffix == ".jsonl":
        listed = list(_read_file(Path(name)))
        refuse_twice(Path(name), listed)
        samples = [s for s in listed if split in (None, s.split)]
    else:
        data_set, named = named_split(name)
        split = split or named or ("test" if data_set == "flickr8k" else "val")
        samples = [
            s
            for s in read_samples(root)
            if s.data_set == data_set and s.split == split and s.clip == clips
        ]
    if not samples:
        raise DataError(f"{name}: no samples of split {split!r} below {root}")
    return samples


def read_frames(name: str, root: Path, samples: Sequence[Sample]) -> Iterator[tuple[str, Clip]]:
    """Yield key and (T, H, W, 3) uint8 RGB frames of each sample that :func:`read_data` gave."""
    keys = {sample.key for sample in samples}
    if Path(name).suffix != ".jsonl":
        yield from read_pictures(root, 5, keys)
        return
    for key in sorted(keys):
        picture = cv2.imread(key, cv2.IMREAD_COLOR)
        if picture is None:
            raise ValueError(f"{key}: not a picture that can be read")
        yield key, picture[None, :, :, ::-1].astype(np.uint8)


def encoded_windows(captioner: Captioner, clips: Iterator[tuple[str, Clip]]) -> Windows:
    """Encode clips as in serving, a batch at a time."""
    while batch := list(islice(clips, _BATCH_CLIPS)):
        windows = captioner.windows([frames for _, frames in batch])
        yield from zip((key for key, _ in batch), windows, strict=True)


@torch.inference_mode()
def cached_windows(captioner: Captioner, cache: FeatureCache, keys: Sequence[str]) -> Windows:
    """Finish encoding cached maps, the pictures as they are.

    Raises:
        ValueError: A key is not cached.

    """
    if missing := [key for key in keys if key not in cache.index]:
        raise ValueError(f"{len(missing)} pictures are not cached, first {missing[0]}")
    for key in keys:
        maps = torch.from_numpy(np.array(cache.frames(key, 0))).float().to(captioner.device)
        features = captioner.encoder.upper(maps, cache.stages)
        yield key, (features, [float(i) for i in range(len(features))])


def named_split(name: str) -> tuple[str, str | None]:
    """``flickr8k-test`` is the split ``test`` of ``flickr8k``; other names stay as they are."""
    start, _, end = name.rpartition("-")
    return (start, end) if start and end in _SPLITS else (name, None)


def _read_file(file: Path) -> Iterator[Sample]:
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
            refuse_misspelt(line)
            image = str(file.parent / line["image"])
            captions, hazards = captions_of(line), hazards_of(line)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file}:{number}: needs image and captions: {error!r}") from None
        scene, split = str(line.get("scene", image)), str(line.get("split", "test"))
        yield Sample(image, str(line.get("source", "file")), split, scene, captions, hazards)
