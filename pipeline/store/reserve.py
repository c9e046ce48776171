"""Disk space kept ahead: a file that is given up when the disk is full, so that alerts fit."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

__all__ = ["Reserve"]

_MIB = 1 << 20


class Reserve:
    """A file of real, allocated blocks beside the store.

    Args:
        path: Where it lies.
        size_mib: How much is kept; 0 keeps nothing.

    """

    def __init__(self, path: Path, size_mib: int) -> None:
        self._path = path
        self._size = size_mib * _MIB

    @property
    def held(self) -> bool:
        """Whether the space is kept now."""
        return self._size == 0 or self._path.exists()

    def take(self) -> bool:
        """Allocate the file where there is room for it twice over; return whether it is held."""
        try:
            if self.held:
                return True
            if shutil.disk_usage(self._path.parent).free < 2 * self._size:
                return False
            self._allocate()
        except OSError:
            self._path.unlink(missing_ok=True)
            return False
        return True

    def give_up(self) -> bool:
        """Free the space; return whether there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def _allocate(self) -> None:
        with self._path.open("wb") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, self._size)
            except (AttributeError, OSError) as error:  # macOS; a file system that cannot
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise
                for _ in range(self._size // _MIB):
                    file.write(bytes(_MIB))
