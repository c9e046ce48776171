"""The GPU's fast runtime: encoder and search recorded once per size, then replayed.

A CUDA graph launches many kernels with one call. It needs fixed shapes and fixed addresses, so
the number of clips is padded up to a power of two and inputs are copied into buffers of the
graph's own. Pixels are staged in pinned memory and copied while the host goes on.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.decoders import Decoder, DecoderState
from models.encoders import Encoder
from models.fusion import Memory
from models.hypotheses import Hypothesis
from models.runtimes.engine import RuntimeUnavailable, Stepper
from models.runtimes.replays import CudaRecorder, Function, Recorder, Replays, bucket, padded
from models.runtimes.search_graphs import SearchGraphs
from models.search import BeamSearch, SearchConfig

__all__ = ["CudaGraphEngine"]

log = logging.getLogger(__name__)


class CudaGraphEngine:
    """Encoder in half precision and channels-last, decoder and search in float32, all replayed.

    Raises:
        RuntimeUnavailable: The device is no CUDA device.

    """

    name = "cuda-graph"

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        device: torch.device,
        record: Recorder | None = None,
        precision: torch.dtype = torch.float16,
    ) -> None:
        if record is None and device.type != "cuda":
            raise RuntimeUnavailable(f"runtime 'cuda-graph' needs a CUDA device, not {device}")
        self._device = device
        record = record or CudaRecorder(device)
        half = copy.deepcopy(encoder).to(precision).to(memory_format=torch.channels_last)
        self._half = half
        self._encoding = Replays(lambda pixels: (half(pixels).float(),), record)
        self._stepping = Replays(_flat_step(decoder), record)
        self._searching: SearchGraphs | None = SearchGraphs(decoder.step, record)

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode pixels; the copy to the device and the work there are only queued."""
        with torch.inference_mode():
            staged = pixels.pin_memory() if self._device.type == "cuda" else pixels
            on_device = staged.to(self._device, non_blocking=True)
            (features,) = self._encoding(padded(on_device, bucket(len(pixels))))
            return features[: len(pixels)]

    def lower(self, pixels: Tensor, stages: int) -> Tensor:
        """Run the lower stages as they are: so few windows want it that nothing is recorded."""
        with torch.inference_mode():
            return self._half.lower(pixels.to(self._device), stages).float()

    def stepper(self, memory: Memory) -> Stepper:
        """Return the step over these clips."""
        return _ReplayedStepper(self._stepping, self._whole, memory)

    def _whole(
        self,
        state: DecoderState,
        memory: Memory,
        config: SearchConfig,
        trace: Callable[[DecoderState], Tensor] | None,
    ) -> list[list[Hypothesis]] | None:
        """Search in recorded legs; None once this device or driver has refused to record them."""
        if self._searching is None:
            return None
        try:
            return self._searching(state, memory, config, trace)
        except torch.OutOfMemoryError:
            raise  # the batcher's to answer
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            log.warning("a whole search cannot be recorded here (%s); recording its steps", first)
            self._searching = None
            return None


Whole = Callable[..., "list[list[Hypothesis]] | None"]
"""``whole(state, memory, config, trace)``: a whole search, or None where it must go by steps."""


class _ReplayedStepper:
    """Pads the clips to the recorded number; rows of padding are computed and cut off."""

    def __init__(self, stepping: Replays, whole: Whole, memory: Memory) -> None:
        self._stepping = stepping
        self._whole = whole
        self._own = memory
        self._clips = len(memory.values)
        self._bucket = bucket(self._clips)
        self._memory: list[Tensor] = []

    def __call__(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        self._memory = self._memory or [padded(part, self._bucket) for part in self._own]
        rows = len(tokens)
        padded_rows = rows // self._clips * self._bucket
        moving = [padded(part, padded_rows) for part in (tokens, *state)]
        logits, *parts = self._stepping(*moving, constants=self._memory)
        return logits[:rows], DecoderState(*(part[:rows] for part in parts))

    def search(
        self,
        state: DecoderState,
        config: SearchConfig,
        trace: Callable[[DecoderState], Tensor] | None,
    ) -> list[list[Hypothesis]]:
        """Search in recorded legs, without a call for each kernel, or else step by step."""
        found = self._whole(state, self._own, config, trace)
        if found is not None:
            return found
        forbidden = torch.tensor(config.forbidden, dtype=torch.int64, device=state.hidden.device)
        return BeamSearch(self, config, forbidden, (), trace).run(state)


def _flat_step(decoder: Decoder) -> Function:
    def step(tokens: Tensor, *parts: Tensor) -> Sequence[Tensor]:
        state = DecoderState(*parts[: len(DecoderState._fields)])
        memory = Memory(*parts[len(DecoderState._fields) :])
        logits, new_state = decoder.step(tokens, state, memory)
        return logits, *new_state

    return step
