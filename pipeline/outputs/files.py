"""Files that are there whole or not at all, and errors that say what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

__all__ = [
    "OutputError",
    "atomic_path",
    "atomic_text",
    "check_directory",
    "explained",
    "make_directory",
    "reason_of",
    "temporary_beside",
]

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or choose another --output",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another --output",
    errno.EACCES: "permission denied; choose an --output you may write to",
    errno.EPERM: "permission denied; choose an --output you may write to",
    errno.EROFS: "the file system is read-only; choose another --output",
    errno.ENAMETOOLONG: "the name is too long; give the camera a shorter NAME=",
    errno.EISDIR: "there is a directory of that name; move it or choose another --output",
    errno.ENOTDIR: "part of the path is a file; choose another --output",
    errno.EEXIST: "there is a file of that name; choose another --output",
}


_REASONS = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "quota_used_up",
    errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied",
    errno.EROFS: "read_only",
}


class OutputError(Exception):
    """An output that cannot be written: one sentence with the path, the reason and the remedy."""


def reason_of(error: OutputError) -> str:
    """Name the reason in a word, for the books: ``disk_full``, ``read_only``, ``not_writable``."""
    cause = error.__cause__
    number = cause.errno if isinstance(cause, OSError) else None
    return _REASONS.get(number or 0, "not_writable")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` about ``path`` into an :class:`OutputError`."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, error.strerror or str(error))
        raise OutputError(f"cannot write {path}: {advice}") from error


def make_directory(directory: Path) -> None:
    """Make the directory and those above it.

    Raises:
        OutputError: It cannot be made, or nothing can be written there.

    """
    with explained(directory):
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "not writable")


def check_directory(directory: Path) -> None:
    """Look whether files can be written to a directory that is there or can be made; make nothing.

    Raises:
        OutputError: They cannot.

    """
    with explained(directory):
        place = directory.absolute()
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(errno.EEXIST if place == directory else errno.ENOTDIR, "")
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "not writable")


def temporary_beside(path: Path) -> Path:
    """Name the file under which ``path`` is made: same directory, same suffix, hidden."""
    return path.with_name(f".{path.stem}.writing{path.suffix}")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a path to write to; the file appears as ``path`` only when all of it is on the disk.

    Raises:
        OutputError: It cannot be written; ``path`` is then as it was before.

    """
    temporary = temporary_beside(path)
    with explained(path):
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


@contextmanager
def atomic_text(path: Path) -> Iterator[IO[str]]:
    """Write UTF-8 text that appears as ``path`` only when all of it is on the disk.

    Raises:
        OutputError: It cannot be written; ``path`` is then as it was before.

    """
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        yield file
