"""Reads the data sets: pictures and clips in tar files, captions one JSON object a line."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Sample", "read_flickr", "read_pictures", "read_surveillance"]


@dataclass(frozen=True)
class Sample:
    """One captioned picture or clip.

    ``split`` is train, val, test or unused; ``scene`` groups near-duplicates, which must never
    fall on two sides of a split. ``hazards`` is what is visible, empty where nothing is labelled.
    """

    key: str
    source: str
    split: str
    scene: str
    captions: tuple[str, ...]
    hazards: tuple[str, ...] = ()
    clip: bool = False


def read_flickr(root: Path) -> list[Sample]:
    """Read the samples of Flickr8k below ``root``; keys are ``flickr/IMAGE``."""
    return [
        Sample(
            f"flickr/{line['image']}",
            "flickr",
            line["split"],
            line["image"],
            tuple(line["captions"]),
        )
        for line in _lines(root / "flickr8k" / "captions.jsonl")
    ]


def read_surveillance(root: Path) -> list[Sample]:
    """Read the surveillance set: each picture, and its clip as a sample of its own."""
    samples = []
    for line in _lines(root / "surveillance" / "captions.jsonl"):
        common = (line["split"], line["scene"], tuple(line["captions"]), tuple(line["hazard"]))
        split, scene, captions, hazards = common
        samples.append(
            Sample(f"cctv/{line['image']}", line["source"], split, scene, captions, hazards)
        )
        if line.get("clip"):
            key = f"clip/{line['clip']}"
            visible = _clip_hazards(hazards, line.get("clip_event"))
            samples.append(Sample(key, line["source"], split, scene, captions, visible, clip=True))
    return samples


def _clip_hazards(hazards: tuple[str, ...], event: str | None) -> tuple[str, ...]:
    """What a whole clip shows: a fight that its one labelled frame misses is in the clip."""
    if event != "fight":
        return hazards
    return tuple({"fight", *hazards} - {"fight_not_visible"})


def read_pictures(
    root: Path, frames_per_clip: int, wanted: Container[str] | None = None
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield every wanted key with its (T, H, W, 3) uint8 RGB frames; T is 1 for a picture."""
    for folder, prefix in (("flickr8k", "flickr"), ("surveillance", "cctv")):
        with tarfile.open(root / folder / "images.tar") as tar:
            for member in tar:
                if wanted is not None and f"{prefix}/{member.name}" not in wanted:
                    continue
                data = _bytes(tar, member)
                picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
                if picture is None:
                    raise ValueError(f"{folder}/images.tar: {member.name} is not a picture")
                yield f"{prefix}/{member.name}", picture[None, :, :, ::-1].astype(np.uint8)
    with tarfile.open(root / "surveillance" / "clips.tar") as tar:
        for member in tar:
            if wanted is not None and f"clip/{member.name}" not in wanted:
                continue
            yield f"clip/{member.name}", _clip_frames(_bytes(tar, member), frames_per_clip)


def _clip_frames(data: bytes, count: int) -> NDArray[np.uint8]:
    """``count`` frames spread evenly over a clip."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(data)
        file.flush()
        capture = cv2.VideoCapture(file.name)
        frames = []
        while (read := capture.read())[0]:
            frames.append(read[1][:, :, ::-1])
        capture.release()
    if not frames:
        raise ValueError("a clip holds no readable frame")
    at = np.linspace(0, len(frames) - 1, count).round().astype(int)
    return np.stack([frames[i] for i in at]).astype(np.uint8)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name} in the archive is not a file")
    return io.BytesIO(file.read()).getvalue()
