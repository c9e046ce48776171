"""Reads data sets: folders of pictures and clips with their captions, one JSON object a line.

A data set is a folder with ``captions.jsonl`` and its pictures in ``images.tar`` or ``images/``,
its clips in ``clips.tar`` or ``clips/``. A line holds ``captions`` (a list), and ``image`` or
``clip`` or both (the clip whose captioned frame the image is); further ``split`` (train, val or
test; train where it is left out), ``scene`` (near-duplicates share it and must share their split),
``source`` (which camera or collection) and ``hazard`` (what is visible: fight, fire, smoke, crash,
person_down, weapon; ``fight_not_visible`` where the clip holds it and this frame does not).
Pictures may lie in another folder or archive of the set, which the line then names: ``folder``.

Captions that this project wrote of such pictures lie in ``models/training/data``, a file for a
data set, and are read with that set wherever it is found.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import posixpath
import tarfile
import tempfile
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.hazard_words import HAZARD_WORDS

__all__ = [
    "DataError",
    "Sample",
    "captions_of",
    "data_root",
    "hazards_of",
    "pictures_digest",
    "read_folder",
    "read_pictures",
    "read_samples",
    "refuse_missing",
    "refuse_misspelt",
    "refuse_twice",
]

_ADDED = Path(__file__).parent / "data"
_KEYS = ("image", "clip", "captions", "split", "scene", "source", "hazard", "clip_event", "folder")
_SPLITS = ("train", "val", "test", "unused")
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def data_root() -> Path:
    """Where data sets are unless a command is told otherwise: ``WATCHWORD_DATA``."""
    return Path(os.environ.get("WATCHWORD_DATA", "../shared/data"))


class DataError(ValueError):
    """A data set cannot be used; the text names file and line, and says what is wrong."""


@dataclass(frozen=True)
class Sample:
    """One captioned picture or clip; ``key`` is ``SET/FOLDER/FILE``, a clip's folder ``clips``.

    ``scene`` groups near-duplicates, which must never fall on two sides of a split. ``hazards``
    is what is visible, and None where nobody has labelled it.
    """

    key: str
    source: str
    split: str
    scene: str
    captions: tuple[str, ...]
    hazards: tuple[str, ...] | None = None

    @property
    def data_set(self) -> str:
        """Name of the folder it comes from."""
        return self.key.split("/", 1)[0]

    @property
    def clip(self) -> bool:
        """Whether it is a clip and not a picture."""
        return self.key.split("/", 2)[1] == "clips"


def read_samples(root: Path, data_sets: Collection[str] = ()) -> list[Sample]:
    """Read every data set below ``root``, by name, or only these ``data_sets``.

    Raises:
        DataError: There is none, one that was named is missing, or a line cannot be used.

    """
    samples = [sample for folder in _folders(root, data_sets) for sample in _read_set(folder)]
    if not samples:
        raise DataError(f"{root}: no folder there holds captions.jsonl and images or clips")
    refuse_twice(root, samples)
    scenes: dict[tuple[str, str], Sample] = {}
    for sample in samples:
        first = scenes.setdefault((sample.data_set, sample.scene), sample)
        if first.split != sample.split:
            raise DataError(
                f"{root / sample.data_set}: scene {sample.scene!r} is in {first.split} "
                f"({first.key}) and in {sample.split} ({sample.key}); keep it in one"
            )
    return samples


def refuse_twice(where: Path, samples: Iterable[Sample]) -> None:
    """Refuse pictures that are listed twice: one line's captions would be lost.

    Raises:
        DataError: One is; the text names it.

    """
    if twice := [key for key, count in Counter(s.key for s in samples).items() if count > 1]:
        raise DataError(
            f"{where}: {twice[0]} is listed more than once; give all its captions in one line"
        )


def read_pictures(
    root: Path,
    frames_per_clip: int,
    wanted: Collection[str] | None = None,
    data_sets: Collection[str] = (),
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield every wanted key with its (T, H, W, 3) uint8 RGB frames; T is 1 for a picture.

    Only pictures of ``data_sets``, where some are named.

    Raises:
        DataError: A file is no picture, or a clip without a readable frame; or, at the end, wanted
            ones were not there.

    """
    found = set()
    for folder in _folders(root, data_sets):
        for key, frames in read_folder(folder, frames_per_clip, wanted):
            found.add(key)
            yield key, frames
    if wanted is not None:
        refuse_missing(root, wanted, found)


def refuse_missing(root: Path, wanted: Collection[str], found: Container[str]) -> None:
    """Refuse to go on without pictures or clips that are listed.

    Raises:
        DataError: Some of those wanted were not found; the text names the first.

    """
    if missing := sorted(key for key in wanted if key not in found):
        raise DataError(
            f"{root}: {len(missing)} of {len(wanted)} pictures and clips that are listed are not "
            f"there, first {missing[0]}"
        )


def pictures_digest(root: Path, data_sets: Collection[str] = ()) -> str:
    """Digest of which picture files there are, how large and of when: it changes when they do."""
    digest = hashlib.sha256()
    for folder in _folders(root, data_sets):
        for kind in ("images", "clips", *_keys_elsewhere(folder)):
            archive = (folder / kind).with_suffix(".tar")
            files = [archive] if archive.is_file() else sorted((folder / kind).rglob("*"))
            for file in files:
                if file != archive and not (
                    file.is_file() and _is_wanted(f"{folder.name}/{kind}/{file.name}", None)
                ):
                    continue  # no picture: what a file browser left, a folder, a broken link
                about = file.stat()
                name = file.relative_to(root).as_posix()
                digest.update(f"{name} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def read_folder(
    folder: Path, frames_per_clip: int, wanted: Container[str] | None = None
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield as :func:`read_pictures` from one data set, captioned or not.

    Raises:
        DataError: A file is no picture, or a clip without a readable frame.

    """
    elsewhere = _keys_elsewhere(folder)
    for kind in ("images", "clips", *elsewhere):
        only = wanted
        if kind in elsewhere:  # such a folder may hold much that nobody has captioned
            only = {key for key in elsewhere[kind] if wanted is None or key in wanted}
        for name, data in _files(folder / kind, only, f"{folder.name}/{kind}/"):
            where = f"{folder / kind}: {name}"
            frames = _clip(data, frames_per_clip) if kind == "clips" else _picture(data)
            if frames is None:
                what = "clip" if kind == "clips" else "image"
                raise DataError(f"{where} cannot be read as {what}")
            yield f"{folder.name}/{kind}/{name}", frames


def _folders(root: Path, named: Collection[str]) -> list[Path]:
    """Folders of the data sets that are there; of those that are named, where some are."""
    there = [
        file.parent
        for file in sorted(root.glob("*/captions.jsonl"))
        if _exists(file.parent / "images") or _exists(file.parent / "clips")
    ]
    if missing := sorted(set(named) - {folder.name for folder in there}):
        raise DataError(f"{root}: no data set there is called {' or '.join(missing)}")
    return [folder for folder in there if not named or folder.name in named]


def _exists(folder: Path) -> bool:
    """Whether a folder, or the archive in its place, is there."""
    return folder.is_dir() or folder.with_suffix(".tar").is_file()


def _read_set(folder: Path) -> Iterator[Sample]:
    for file in (folder / "captions.jsonl", _ADDED / f"{folder.name}.jsonl"):
        if not file.is_file():
            continue
        for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                line = json.loads(text)
                yield from _samples_of(line, folder)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{file}:{number}: {_reason(error)}") from None


def _keys_elsewhere(folder: Path) -> dict[str, set[str]]:
    """Keys of captioned pictures outside ``images`` and ``clips``, by the folder they lie in."""
    keys: dict[str, set[str]] = {}
    for sample in _read_set(folder):
        kind = sample.key.split("/", 2)[1]
        if kind not in ("images", "clips"):
            keys.setdefault(kind, set()).add(sample.key)
    return keys


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def refuse_misspelt(line: Collection[str]) -> None:
    """Refuse keys that are nearly ours: what a misspelt split or hazard says would be lost.

    Others may stand there (``image_id``), and one that is like a key which is there as well.

    Raises:
        ValueError: One is; the text names ours.

    """
    for key in line:
        near = difflib.get_close_matches(key, _KEYS, 1, 0.86)
        if near and near[0] not in line and not key.startswith(f"{near[0]}_"):
            raise ValueError(f"unknown key {key!r}; did you mean {near[0]!r}?")


def _samples_of(line: dict[str, Any], folder: Path) -> Iterator[Sample]:
    refuse_misspelt(line)
    data_set = folder.name
    files = {kind: line[kind[:-1]] for kind in ("images", "clips") if line.get(kind[:-1])}
    if not files:
        raise KeyError("image or clip")
    if elsewhere := line.get("folder"):
        if not _exists(folder / str(elsewhere)):
            return  # a copy of the set without that archive
        files = {str(elsewhere): line["image"]}
    captions = captions_of(line)
    split = line.get("split", "train")
    if split not in _SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(_SPLITS)}")
    scene = str(line.get("scene", next(iter(files.values()))))
    for kind, name in files.items():
        hazards = hazards_of(line)
        if kind == "clips" and hazards is not None:
            hazards = _clip_hazards(hazards, line.get("clip_event"))
        source = str(line.get("source", data_set))
        key = f"{data_set}/{kind}/{name}"
        yield Sample(key, source, split, scene, captions, hazards)


def captions_of(line: Mapping[str, Any]) -> tuple[str, ...]:
    """Captions of a line.

    Raises:
        KeyError: It has none.
        ValueError: They are no list of sentences.

    """
    captions = line["captions"]
    sentences = isinstance(captions, list) and all(isinstance(c, str) for c in captions)
    if not sentences or not captions:
        raise ValueError("captions must be a list of one sentence or more")
    return tuple(captions)


def hazards_of(line: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Hazard labels of a line; None where it says nothing of them.

    Raises:
        ValueError: They are no list of words, or one is misspelt: that would say that it is absent.

    """
    if "hazard" not in line:
        return None
    labels = line["hazard"]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError("hazard must be a list of words, an empty one for none of them")
    for label in labels:
        hazard = label.removesuffix("_not_visible")
        near = difflib.get_close_matches(hazard, HAZARD_WORDS, 1, 0.7)
        if near and near[0] != hazard:
            raise ValueError(f"hazard {label!r} is unknown; did you mean {near[0]!r}?")
    return tuple(labels)


def _clip_hazards(hazards: tuple[str, ...], event: str | None) -> tuple[str, ...]:
    """What a whole clip shows: a fight that its one labelled frame misses is in the clip."""
    if event != "fight":
        return hazards
    return tuple(sorted({"fight", *hazards} - {"fight_not_visible"}))


def _files(folder: Path, wanted: Container[str] | None, prefix: str) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each wanted file of a folder, or of the archive beside it."""
    archive = folder.with_suffix(".tar")
    if archive.is_file():
        with tarfile.open(archive) as tar:
            names = {posixpath.normpath(m.name): m for m in tar.getmembers() if m.isfile()}
            # However it was made: tar -C images ., or tar images.
            inside = f"{folder.name}/"
            if all(name.startswith(inside) for name in names) and not (
                wanted is not None and any(prefix + name in wanted for name in names)
            ):
                names = {name.removeprefix(inside): member for name, member in names.items()}
            for name, member in names.items():
                file = tar.extractfile(member)
                if file is not None and _is_wanted(prefix + name, wanted):
                    yield name, file.read()
    elif folder.is_dir():
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            if _is_wanted(prefix + name, wanted):
                yield name, path.read_bytes()


def _is_wanted(key: str, wanted: Container[str] | None) -> bool:
    if wanted is not None:
        return key in wanted
    return "/clips/" in key or key.lower().endswith(_PICTURES)


def _picture(data: bytes) -> NDArray[np.uint8] | None:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if picture is None else picture[None, :, :, ::-1].astype(np.uint8)


def _clip(data: bytes, count: int) -> NDArray[np.uint8] | None:
    """``count`` frames spread evenly over a clip; None where no frame can be read."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(data)
        file.flush()
        capture = cv2.VideoCapture(file.name)
        frames = []
        while (read := capture.read())[0]:
            frames.append(read[1][:, :, ::-1])
        capture.release()
    if not frames:
        return None
    at = np.linspace(0, len(frames) - 1, count).round().astype(int)
    return np.stack([frames[i] for i in at]).astype(np.uint8)
