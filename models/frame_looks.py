"""Looks at each frame once, however many windows hold it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from models.decoders import Decoder, FrameLook

__all__ = ["FrameLooks", "pad_frames"]


class FrameLooks:
    """What a decoder sees of frames, kept as long as whoever made a frame's features keeps them.

    Windows overlap: at 2.5 frames and one caption a second each frame is in two of them. Frames
    are told apart by the tensor object itself, and all is looked at anew when a weight has changed.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._weights: tuple[tuple[int, int], ...] = ()

    def __call__(self, windows: Sequence[Sequence[Tensor]], frames: int) -> FrameLook:
        """Look at windows of at most ``frames`` features (R, D); parts are (N, frames, ...).

        Frames that a window lacks come first and hold zeros.
        """
        weights = self._fingerprint()
        if weights != self._weights:
            self._known.clear()
            self._weights = weights
        new = {id(one): one for window in windows for one in window if one not in self._known}
        if new:
            device = self._decoder.output.weight.device
            look = self._decoder.look(torch.stack(list(new.values())).float().to(device))
            for index, one in enumerate(new.values()):
                self._known[one] = FrameLook(*(part[index] for part in look))
        looks = [[self._known[one] for one in window] for window in windows]
        parts = range(len(FrameLook._fields))
        return FrameLook(
            *(pad_frames([[look[part] for look in own] for own in looks], frames) for part in parts)
        )

    def __len__(self) -> int:
        """How many frames are remembered."""
        return len(self._known)

    def _fingerprint(self) -> tuple[tuple[int, int], ...]:
        """Which tensors the weights are, and how often each was written to."""
        weights = (*self._decoder.parameters(), *self._decoder.buffers())
        return tuple((id(w), 0 if w.is_inference() else w._version) for w in weights)


def pad_frames(windows: Sequence[Sequence[Tensor]], frames: int) -> Tensor:
    """Stack windows of equal tensors (...) to (N, frames, ...), zeros in front of the short."""
    like = windows[0][0]
    short = any(len(own) < frames for own in windows)
    nothing = torch.zeros_like(like) if short else like
    # One call whatever the number of frames: on a GPU each copy would be a launch of its own.
    flat = [one for own in windows for one in (*[nothing] * (frames - len(own)), *own)]
    return torch.stack(flat).view(len(windows), frames, *like.shape)
