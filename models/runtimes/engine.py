"""What a runtime is: an encoder and a decoder's step, made fast; and the plain one."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from models.decoders import Decoder, DecoderState
from models.encoders import Encoder
from models.fusion import Memory

__all__ = ["EagerEngine", "Engine", "RuntimeUnavailable", "Stepper", "select_clips"]


class RuntimeUnavailable(Exception):
    """A runtime cannot be used here; the text says why and what to do."""


class Stepper(Protocol):
    """One search's view of the decoder, with the clips it decodes bound to it."""

    def __call__(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """One word on: (rows,) tokens and a state of as many rows to (rows, V) logits.

        Rows are clips x beams, clip-major. The logits are the caller's until the next call, the
        state for good.
        """


class Engine(Protocol):
    """Runs one captioner's encoder and decoder. Not thread-safe.

    Attributes:
        name: The runtime's name, as ``--runtime`` takes it.

    """

    name: str

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode (N, 3, S, S) uint8 RGB pixels on the CPU into (N, R, D) float32 features."""

    def lower(self, pixels: Tensor, stages: int) -> Tensor:
        """Maps (N, C, H, W) float32 of (N, 3, S, S) uint8 RGB pixels after so many stages."""

    def stepper(self, memory: Memory) -> Stepper:
        """Return the decoder's step over these clips."""


def select_clips(memory: Memory, clips: Tensor) -> Memory:
    """Keep the memory of ``clips`` (n,) int64 only."""
    return Memory(*(part.index_select(0, clips) for part in memory))


class EagerEngine:
    """Plain PyTorch, on any device."""

    name = "eager"

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        self._encoder = encoder
        self._decoder = decoder

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode pixels with the module as it is."""
        device = next(self._encoder.parameters()).device
        with torch.inference_mode():
            features: Tensor = self._encoder(pixels.to(device))
        return features.float()

    def lower(self, pixels: Tensor, stages: int) -> Tensor:
        """Run the encoder's lower stages as they are."""
        device = next(self._encoder.parameters()).device
        with torch.inference_mode():
            return self._encoder.lower(pixels.to(device), stages).float()

    def stepper(self, memory: Memory) -> Stepper:
        """Step with the module as it is."""
        return _EagerStepper(self._decoder, memory)


class _EagerStepper:
    def __init__(self, decoder: Decoder, memory: Memory) -> None:
        self._decoder = decoder
        self._memory = memory

    def __call__(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        return self._decoder.step(tokens, state, self._memory)

    def keep(self, clips: Tensor) -> None:
        """Go on with these clips only."""
        self._memory = select_clips(self._memory, clips)
