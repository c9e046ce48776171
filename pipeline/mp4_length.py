"""How long an MP4 or MOV file says it is, and whether all of it is there."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple

__all__ = ["Mp4Length", "mp4_length"]

_HEADER_BYTES = 16  # of a box: length, name, and the length again where 32 bits do not hold it


class Mp4Length(NamedTuple):
    """What the index says: seconds of the film as it is to be shown, and is the file ``whole``."""

    duration_s: float
    whole: bool


def mp4_length(path: Path) -> Mp4Length | None:
    """Read the boxes of a file; None of another container, or of one that tells no length."""
    try:
        with path.open("rb") as file:
            return _walk(file, path.stat().st_size)
    except OSError:
        return None


def _walk(file: BinaryIO, size: int) -> Mp4Length | None:
    at, duration_s = 0, 0.0
    while at < size:
        file.seek(at)
        head = file.read(_HEADER_BYTES)
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        if at == 0 and name != b"ftyp":
            return None
        wide = length == 1
        if wide:
            length = int.from_bytes(head[8:16], "big")
        if name == b"moov":
            file.seek(at + (16 if wide else 8))
            duration_s = _duration_s(file.read(40))
        at = size if length == 0 else at + max(length, 8)  # 0: to the end of the file
    return Mp4Length(duration_s, at == size) if duration_s else None


def _duration_s(box: bytes) -> float:
    """Seconds told by the movie header, the first box of an index; 0 where it tells none."""
    if box[4:8] != b"mvhd":
        return 0.0
    scale, ticks = (box[28:32], box[32:40]) if box[8] == 1 else (box[20:24], box[24:28])
    return int.from_bytes(ticks, "big") / (int.from_bytes(scale, "big") or 1)
