"""One run a store: two would publish each other's events, each to its own Redis."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.store.store import StoreError

__all__ = ["exclusive"]


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a store for this process alone; the system frees it however the process ends.

    Where there is no ``flock`` (Windows) nothing is held.

    Raises:
        StoreError: Another run holds it, or the lock beside it cannot be written.

    """
    try:
        import fcntl  # noqa: PLC0415 - there is no such module elsewhere
    except ImportError:
        yield
        return
    lock = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("ab")
    except OSError as error:
        raise StoreError(
            f"store {path}: cannot be written: {error.strerror}; choose another --output"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"store {path}: another run is using it; give this one another --output"
            ) from None
        yield
