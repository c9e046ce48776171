"""Shared memory for one camera's pictures: written by its grabber, read by the captioner.

One segment holds ``slots`` slots. A slot is the encoder's square, (S, S, 3) uint8 RGB, followed
by room for a preview in the picture's own aspect. The main process creates and unlinks segments;
its children only attach. Pages never written cost no memory.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory

import numpy as np
from numpy.typing import NDArray

__all__ = ["FrameSlots", "SlotLayout"]

_CHANNELS = 3


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


class FrameSlots:
    """One camera's slots. Views from :meth:`square` and :meth:`preview` must not outlive it."""

    def __init__(self, layout: SlotLayout, memory: SharedMemory) -> None:
        self.layout = layout
        self._memory = memory
        self._bytes: NDArray[np.uint8] | None = np.frombuffer(
            memoryview(memory.buf or b""), np.uint8
        )

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
