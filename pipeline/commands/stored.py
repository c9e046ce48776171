"""What a run has left to be read: its store, and captions from there or from a JSONL file."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from zoneinfo import ZoneInfo

from pipeline.config import Config
from pipeline.messages import Caption
from pipeline.moments import parse_moment
from pipeline.rules import read_captions
from pipeline.store import Archive
from pipeline.yaml_models import ConfigError, Problem

__all__ = ["bounds", "store_file", "stored_captions"]

_NAME = Path(Config().store.path).name
_SQLITE = b"SQLite format 3\0"


def store_file(given: Path) -> Path:
    """Return the store that a path names: the file, or the output folder that holds it."""
    return given / _NAME if given.is_dir() else given


def stored_captions(
    given: Path, camera: str = "*", since: str | None = None, until: str | None = None
) -> Iterator[Caption]:
    """Yield captions of a JSONL file, or of a store or output folder, in the order they stand in.

    Args:
        given: The file or folder.
        camera: A name or glob.
        since: A time or an age, as people write it; None: from the first on.
        until: The same for the last.

    Raises:
        ConfigError: The file cannot be read, or a line of it is no caption.
        StoreError: It is a store that cannot be read.
        WrongUse: A time is none.

    """
    path = store_file(given)
    if not _is_store(path):
        first, last = bounds(since, until, None)
        for caption in read_captions(path):
            at = caption.stamp.captured_at
            inside = (first is None or at >= first) and (last is None or at <= last)
            if inside and fnmatchcase(caption.stamp.camera, camera):
                yield caption
        return
    archive = Archive(path)
    try:
        first, last = bounds(since, until, archive.time_zone(camera))
        yield from archive.captions(camera, first, last)
    finally:
        archive.close()


def bounds(
    since: str | None, until: str | None, time_zone: str | None
) -> tuple[datetime | None, datetime | None]:
    """Read two times as people write them; those that name no zone are in ``time_zone``.

    Raises:
        WrongUse: One of them is none.

    """
    zone = None if time_zone is None else ZoneInfo(time_zone)
    first, last = (
        None if text is None else parse_moment(text, zone=zone) for text in (since, until)
    )
    return first, last


def _is_store(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError as error:
        problem = Problem(str(path), None, f"cannot be read: {error.strerror}; check the path")
        raise ConfigError([problem]) from None
