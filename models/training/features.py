"""Cache of a frozen lower encoder: every view of every picture runs through it once.

``maps.bin`` holds rows of (C, H, W) float16, memory-mapped; ``index.json``, written last, their
shape and, for each key, its first row and its number of frames. View 0 is the picture as it is,
view 1 its mirror image, the others pictures as another camera might have taken them. What is
above the cut is trained on these maps; so a deep cut is cheap and a shallow one learns more.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from models.encoders import Encoder, LowerStages, build_encoder, load_imagenet_weights
from models.training.corruptions import augmented
from models.training.sources import pictures_digest, read_pictures
from models.transforms import to_square

__all__ = ["CacheSettings", "FeatureCache", "View", "build_cache", "open_cache"]

_BATCH = 32
Maps = NDArray[np.float16]
View = Callable[[NDArray[np.uint8], int, np.random.Generator], NDArray[np.uint8]]
"""Makes view ``number``, from 2 on, of a picture (H, W, 3)."""


@dataclass(frozen=True)
class CacheSettings:
    """What the cached maps depend on.

    ``stages`` is how many stages of the encoder are frozen; ``data_sets`` are the only ones that
    are cached, all where none is named.
    """

    encoder: str
    stages: int
    side: int
    frames_per_clip: int
    views: int
    data_sets: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """A folder name that changes when any setting does."""
        encoded = f"{self.encoder}-{self.stages}-{self.side}px"
        seen = f"{self.frames_per_clip}f-{self.views}views"
        return "-".join((encoded, seen, *self.data_sets))


@dataclass(frozen=True)
class FeatureCache:
    """Cached maps by key: ``frames(key, view)`` is (T, C, H, W) float16."""

    rows: Maps
    index: dict[str, tuple[int, int]]
    views: int
    stages: int
    pictures: str = ""
    """Digest of the pictures it is of (:func:`models.training.sources.pictures_digest`)."""

    def frames(self, key: str, view: int) -> Maps:
        """Maps of one key, one view; rows of a view lie together, oldest frame first."""
        first, count = self.index[key]
        start = first + view * count
        return self.rows[start : start + count]

    def frame_count(self, key: str) -> int:
        """How many frames a key has."""
        return self.index[key][1]

    def maps(self, keys: Sequence[str], views: Sequence[int]) -> Tensor:
        """Maps (N, T, C, H, W) float32 of keys with equally many frames, each in its view."""
        frames = [self.frames(key, view) for key, view in zip(keys, views, strict=True)]
        return torch.from_numpy(np.stack(frames)).float()


def open_cache(folder: Path) -> FeatureCache:
    """Open a finished cache.

    Raises:
        FileNotFoundError: There is none, or its building was cut off.

    """
    about = json.loads((folder / "index.json").read_text())
    rows = np.memmap(folder / "maps.bin", np.float16, "r", shape=tuple(about["shape"]))
    index = {key: (first, count) for key, (first, count) in about["index"].items()}
    return FeatureCache(rows, index, about["views"], about["stages"], about.get("pictures", ""))


def as_another_camera(
    picture: NDArray[np.uint8], number: int, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Return the picture as another camera might have taken it; all views are of one kind."""
    del number
    return augmented(picture, random)


def build_cache(
    data_root: Path,
    folder: Path,
    settings: CacheSettings,
    *,
    encoder: Encoder | None = None,
    view: View = as_another_camera,
    wanted: Collection[str] | None = None,
) -> FeatureCache:
    """Encode what is ``wanted`` below ``data_root``, or all; the index is written last.

    Args:
        data_root: Folder of data sets.
        folder: Of the cache.
        settings: What the maps depend on.
        encoder: Whose lower stages look; one with its starting weights where none is given.
        view: Makes the views from 2 on.
        wanted: Keys; all where it is None.

    """
    if encoder is None:
        encoder = build_encoder(settings.encoder)
        load_imagenet_weights(encoder)
    lower = _lower(encoder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)  # of the maps that are written over now
    pictures = pictures_digest(data_root, settings.data_sets)
    index: dict[str, tuple[int, int]] = {}
    shape: list[int] = []
    rows = 0
    squares = tqdm(
        _squares(data_root, settings, index, view, wanted),
        desc="encoding",
        unit=" views",
        mininterval=10,
    )
    with (folder / "maps.bin").open("wb") as file:
        for batch in _batches(squares):
            maps = lower(batch)
            rows, shape = rows + len(maps), [*maps.shape[1:]]
            file.write(maps.astype(np.float16).tobytes())
    about = {
        "shape": [rows, *shape],
        "views": settings.views,
        "stages": settings.stages,
        "pictures": pictures,
    }
    (folder / "index.json").write_text(json.dumps({**about, "index": index}))
    return open_cache(folder)


def _lower(encoder: Encoder, settings: CacheSettings) -> Callable[[NDArray[np.uint8]], Maps]:
    """Run (N, S, S, 3) uint8 squares to maps: on CUDA in PyTorch, else by OpenVINO (3x faster).

    A detector runs in PyTorch wherever it is.
    """
    module = LowerStages(encoder, settings.stages).eval()
    if torch.cuda.is_available() or not encoder.traceable:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        module.to(device)

        @torch.inference_mode()
        def in_torch(squares: NDArray[np.uint8]) -> Maps:
            pixels = torch.from_numpy(squares).to(device).permute(0, 3, 1, 2)
            maps: Maps = module(pixels).half().cpu().numpy()
            return maps

        return in_torch
    import openvino  # noqa: PLC0415  (heavy, and of no use where there is CUDA)

    side = settings.side
    example = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    model = openvino.convert_model(module, example_input=example, input=[[-1, 3, side, side]])
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(model, "CPU", exact)

    def on_cpu(squares: NDArray[np.uint8]) -> Maps:
        maps: Maps = compiled(np.ascontiguousarray(squares.transpose(0, 3, 1, 2)))[0]
        return maps

    return on_cpu


def _squares(
    data_root: Path,
    settings: CacheSettings,
    index: dict[str, tuple[int, int]],
    make: View,
    wanted: Collection[str] | None,
) -> Iterator[NDArray[np.uint8]]:
    row = 0
    pictures = read_pictures(data_root, settings.frames_per_clip, wanted, settings.data_sets)
    for key, frames in pictures:
        index[key] = (row, len(frames))
        row += settings.views * len(frames)
        squares = [to_square(frame, settings.side) for frame in frames]
        yield from squares
        if settings.views > 1:
            yield from (square[:, ::-1] for square in squares)
        for view in range(2, settings.views):
            for frame in frames:
                # The same generator for every frame of a clip: one camera took them all.
                random = np.random.default_rng(zlib.crc32(f"{key}/{view}".encode()))
                yield to_square(make(frame, view, random), settings.side)


def _batches(squares: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    batch: list[NDArray[np.uint8]] = []
    for square in squares:
        batch.append(square)
        if len(batch) == _BATCH:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)
