"""How long the film of an MP4 or MOV file says it is, and whether all of the file is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

__all__ = ["Mp4Length", "mp4_length"]

_HEADER_BYTES = 16  # of a box: length, name, and the length again where 32 bits do not hold it


class Mp4Length(NamedTuple):
    """What the index says: seconds of pictures that are to be shown, and is the file ``whole``."""

    duration_s: float
    whole: bool


class _Box(NamedTuple):
    """A box (ISO/IEC 14496-12, 4.2): its name, and where in the file its content lies."""

    name: bytes
    begin: int
    end: int


def mp4_length(path: Path) -> Mp4Length | None:
    """Read the boxes of a file; None of another container, or of one that tells no length."""
    try:
        with path.open("rb") as file:
            return _length(file, path.stat().st_size)
    except OSError:
        return None


def _length(file: BinaryIO, size: int) -> Mp4Length | None:
    duration_s, end = 0.0, 0
    for number, box in enumerate(_boxes(file, 0, size)):
        if number == 0 and box.name != b"ftyp":
            return None
        if box.name == b"moov":
            duration_s = _duration_s(file, box)
        end = box.end
    return Mp4Length(duration_s, end == size) if duration_s else None


def _boxes(file: BinaryIO, begin: int, end: int) -> Iterator[_Box]:
    """Boxes between two places; the last may end beyond, where a file is cut off."""
    at = begin
    while at < end:
        file.seek(at)
        head = file.read(_HEADER_BYTES)
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        content = at + (16 if length == 1 else 8)
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        after = end if length == 0 else at + max(length, 8)  # 0: to the end
        yield _Box(name, content, after)
        at = after


def _duration_s(file: BinaryIO, moov: _Box) -> float:
    """Seconds of the longest track of pictures, as its edit list shows it; 0 where nothing tells.

    The movie header's own duration is that of the longest track of any kind: sound may outlast
    the pictures. So it counts only where no such track tells its own.
    """
    scale = longest = whole = 0
    for box in _boxes(file, moov.begin, moov.end):
        if box.name == b"mvhd":
            content = _content(file, box)
            wide = content[:1] == b"\1"
            scale = _number(content[20:24] if wide else content[12:16])
            whole = _number(content[24:32] if wide else content[16:20])
        elif box.name == b"trak":
            longest = max(longest, _ticks_of_pictures(file, box))
    return (longest or whole) / (scale or 1)


def _ticks_of_pictures(file: BinaryIO, track: _Box) -> int:
    """Duration of a track in the movie's ticks; 0 of one that holds no pictures."""
    ticks, shows_pictures = 0, False
    for box in _boxes(file, track.begin, track.end):
        if box.name == b"tkhd":
            content = _content(file, box)
            ticks = _number(content[28:36] if content[:1] == b"\1" else content[20:24])
        elif box.name == b"mdia":
            handlers = [b for b in _boxes(file, box.begin, box.end) if b.name == b"hdlr"]
            shows_pictures = any(_content(file, b)[8:12] == b"vide" for b in handlers)
    return ticks if shows_pictures else 0


def _number(field: bytes) -> int:
    """An unsigned number; 0 for all ones, which say that it is not known."""
    return 0 if field == b"\xff" * len(field) else int.from_bytes(field, "big")


def _content(file: BinaryIO, box: _Box) -> bytes:
    file.seek(box.begin)
    return file.read(min(box.end - box.begin, 64))
