"""Shared memory for one camera's pictures: written by its grabber, read by the captioner.

One segment holds ``slots`` slots. A slot is the encoder's square, (S, S, 3) uint8 RGB, followed
by room for a preview in the picture's own aspect. The main process creates and unlinks segments;
its children only attach. Pages never written cost no memory; but writing to one that is not to be
had kills the writer (SIGBUS), so what is to be written is asked for first, where that is possible.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["FrameSlots", "SharedMemoryFull", "SlotLayout", "fitting_slots", "shared_room_bytes"]

_CHANNELS = 3
_FOLDER = Path("/dev/shm")
_ADVICE = "in a container, give it more: --shm-size 1g"


class SharedMemoryFull(OSError):
    """There is no room for a camera's pictures: one sentence with what to do."""


def shared_room_bytes() -> int | None:
    """Bytes that shared memory can still take; None where the system does not say."""
    if not _FOLDER.is_dir():
        return None
    found = os.statvfs(_FOLDER)
    return found.f_bavail * found.f_frsize


@dataclass(frozen=True, slots=True)
class SlotLayout:
    """Where a camera's slots lie: all that a child needs to attach (picklable)."""

    segment: str
    slots: int
    square_pixels: int
    preview_pixels: int

    @property
    def square_bytes(self) -> int:
        """Bytes of one encoder square."""
        return self.square_pixels * self.square_pixels * _CHANNELS

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot: the square and the largest preview."""
        return self.square_bytes + self.preview_pixels * self.preview_pixels * _CHANNELS


def fitting_slots(layout: SlotLayout, fewest: int, promised_bytes: int = 0) -> int:
    """How many of ``layout.slots`` fit into shared memory beside ``promised_bytes``.

    Raises:
        SharedMemoryFull: Less than ``fewest``.

    """
    room_bytes = shared_room_bytes()
    if room_bytes is None:
        return layout.slots
    fit = max(0, room_bytes - promised_bytes) // layout.slot_bytes
    if fit < fewest:
        needs_mb, free_mb = fewest * layout.slot_bytes / 1e6, room_bytes / 1e6
        raise SharedMemoryFull(
            f"shared memory is too small: one more camera needs up to {needs_mb:.0f} MB, and of "
            f"{free_mb:.0f} MB free in {_FOLDER} {promised_bytes / 1e6:.0f} MB are promised; "
            f"watch fewer, lower capture.preview_pixels, or {_ADVICE}"
        )
    return min(layout.slots, fit)


class FrameSlots:
    """One camera's slots. Views from :meth:`square` and :meth:`preview` must not outlive it."""

    def __init__(self, layout: SlotLayout, memory: SharedMemory) -> None:
        self.layout = layout
        self._memory = memory
        self._bytes: NDArray[np.uint8] | None = np.frombuffer(
            memoryview(memory.buf or b""), np.uint8
        )
        self._reserved: dict[int, int] = {}

    @classmethod
    def create(
        cls, name_hint: str, slots: int, square_pixels: int, preview_pixels: int
    ) -> FrameSlots:
        """Make a segment; the caller owns it and must :meth:`close` and :meth:`unlink` it.

        Should the process be killed first, multiprocessing's resource tracker unlinks it.
        """
        hint = "".join(char for char in name_hint if char.isalnum())[:6]
        name = f"ww{os.getpid()}-{hint}{secrets.token_hex(4)}"  # macOS takes 31 characters
        layout = SlotLayout(name, slots, square_pixels, preview_pixels)
        memory = SharedMemory(name, create=True, size=slots * layout.slot_bytes)
        return cls(layout, memory)

    @property
    def unwritten_bytes(self) -> int:
        """What this segment may still take of shared memory, as its pages come to be written."""
        size = self.layout.slots * self.layout.slot_bytes
        try:
            return max(0, size - (_FOLDER / self.layout.segment).stat().st_blocks * 512)
        except OSError:
            return size

    @classmethod
    def attach(cls, layout: SlotLayout) -> FrameSlots:
        """Open an existing segment in a child started by multiprocessing.

        Before Python 3.13 attaching registers the name with the resource tracker again; the
        children share their parent's tracker, where registering twice changes nothing.

        Raises:
            FileNotFoundError: The owner has unlinked it.

        """
        if sys.version_info >= (3, 13):
            return cls(layout, SharedMemory(layout.segment, track=False))
        return cls(layout, SharedMemory(layout.segment))

    def square(self, slot: int) -> NDArray[np.uint8]:
        """Return a slot's encoder square, (S, S, 3) uint8 RGB: a view."""
        size = self.layout.square_pixels
        return self._view(slot, 0, (size, size, _CHANNELS))

    def preview(self, slot: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return a slot's preview, (height, width, 3) uint8 RGB: a view.

        Raises:
            ValueError: A preview of that size does not fit.

        """
        longest = self.layout.preview_pixels
        if not (0 < width <= longest and 0 < height <= longest):
            raise ValueError(f"preview of {width}x{height} pixels; 1 to {longest} a side fit")
        return self._view(slot, self.layout.square_bytes, (height, width, _CHANNELS))

    def reserve(self, slot: int, width: int, height: int) -> None:
        """Get the memory that a slot with a preview of that size needs, before it is written.

        Raises:
            SharedMemoryFull: It is not to be had: something else has filled shared memory.

        """
        wanted = self.layout.square_bytes + width * height * _CHANNELS
        path = _FOLDER / self.layout.segment
        if wanted <= self._reserved.get(slot, 0) or not path.exists():
            return
        file = os.open(path, os.O_RDWR)
        try:
            os.posix_fallocate(file, slot * self.layout.slot_bytes, wanted)
        except OSError as error:
            raise SharedMemoryFull(
                f"no room in shared memory, {_FOLDER} ({(error.strerror or 'full').lower()}); "
                f"{_ADVICE}"
            ) from None
        finally:
            os.close(file)
        self._reserved[slot] = wanted

    def close(self) -> None:
        """Unmap the segment here. A view still held keeps its mapping until it is dropped."""
        self._bytes = None
        with contextlib.suppress(BufferError):
            self._memory.close()

    def unlink(self) -> None:
        """Remove the segment's name; the owner calls this once, after its children are gone."""
        with contextlib.suppress(FileNotFoundError):
            self._memory.unlink()

    def _view(self, slot: int, offset: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
        if self._bytes is None:
            raise ValueError(f"segment {self.layout.segment} is closed")
        if not 0 <= slot < self.layout.slots:
            raise IndexError(f"slot {slot} of {self.layout.slots}")
        start = slot * self.layout.slot_bytes + offset
        return self._bytes[start : start + shape[0] * shape[1] * shape[2]].reshape(shape)
