"""How far a run over recordings is, all together: what is read, how fast, how long still."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Progress", "TotalProgress"]


@dataclass(frozen=True, slots=True)
class Progress:
    """All recordings at one moment: how many are over, and seconds of media read and in all.

    ``media_s`` is an estimate while not all have been opened.
    """

    recordings: int
    ended: int
    read_s: float
    media_s: float

    def rate(self, elapsed_s: float) -> float:
        """Seconds of media read in a second."""
        return self.read_s / elapsed_s if elapsed_s > 0 else 0.0

    def left_s(self, elapsed_s: float) -> float | None:
        """Seconds until all is read, if it goes on like this; None while nothing is read."""
        rate = self.rate(elapsed_s)
        return (self.media_s - self.read_s) / rate if rate > 0 else None


@dataclass
class _Recording:
    size_bytes: int
    position_s: float = 0.0
    duration_s: float | None = None
    ended: bool = False

    @property
    def never_read(self) -> bool:
        """Whether it is over without having been opened: a run before has finished it."""
        return self.ended and self.duration_s is None and self.position_s == 0.0


class TotalProgress:
    """Adds up the recordings of a run. Not thread-safe.

    A recording that waits for its turn has not been opened, so nobody knows its length. It is
    taken to have as many seconds a byte as those that were opened.

    Args:
        sizes_bytes: Size of each recording by camera.

    """

    def __init__(self, sizes_bytes: Mapping[str, int]) -> None:
        self._recordings = {name: _Recording(size) for name, size in sizes_bytes.items()}

    def move(self, camera: str, position_s: float, duration_s: float | None) -> None:
        """Note how far a recording has been read, seconds of media time; others are passed over."""
        if (one := self._recordings.get(camera)) is not None and not one.ended:
            one.position_s = position_s
            one.duration_s = duration_s or one.duration_s

    def end(self, camera: str) -> bool:
        """Note that a recording is over; False for one already noted, never read, or not known."""
        one = self._recordings.get(camera)
        if one is None or one.ended:
            return False
        one.ended = True
        return not one.never_read

    def now(self) -> Progress | None:
        """Everything together; None while no length is known."""
        known = [one for one in self._recordings.values() if one.duration_s]
        known_s = sum(one.duration_s or 0.0 for one in known)
        known_bytes = sum(one.size_bytes for one in known)
        if not known_bytes:
            return None
        read_s = media_s = 0.0
        for one in self._recordings.values():
            if one.never_read:
                continue
            length_s = one.duration_s or one.size_bytes * known_s / known_bytes
            if one.ended and one.duration_s is None:
                length_s = one.position_s
            media_s += length_s
            read_s += length_s if one.ended else min(one.position_s, length_s)
        ended = sum(one.ended for one in self._recordings.values())
        return Progress(len(self._recordings), ended, read_s, media_s)
