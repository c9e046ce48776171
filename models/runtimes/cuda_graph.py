"""The GPU's fast runtime: encoder and decoder step recorded once per size, then replayed.

A CUDA graph launches a whole step with one call. It needs fixed shapes and fixed addresses, so
the number of clips is padded up to a power of two and inputs are copied into buffers of the
graph's own. Pixels are staged in pinned memory and copied while the host goes on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.decoders import Decoder, DecoderState
from models.encoders import Encoder
from models.fusion import Memory
from models.runtimes.engine import RuntimeUnavailable, Stepper

__all__ = ["CudaGraphEngine", "Recorder", "Replays", "record_cuda_graph"]

Function = Callable[..., Sequence[Tensor]]
Recorder = Callable[[Function, Sequence[Tensor]], "tuple[Callable[[], None], Sequence[Tensor]]"]
"""From a function and its input buffers to a replay, and the buffers that replay fills."""

_WARM_UP_RUNS = 3


class CudaGraphEngine:
    """Encoder in half precision and channels-last, decoder step in float32, both replayed.

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
        half = copy.deepcopy(encoder).to(precision).to(memory_format=torch.channels_last)
        self._encoding = Replays(lambda pixels: (half(pixels).float(),), record)
        self._stepping = Replays(_flat_step(decoder), record)

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode pixels; the copy to the device and the work there are only queued."""
        with torch.inference_mode():
            staged = pixels.pin_memory() if self._device.type == "cuda" else pixels
            on_device = staged.to(self._device, non_blocking=True)
            (features,) = self._encoding(_padded(on_device, _bucket(len(pixels))))
            return features[: len(pixels)]

    def stepper(self, memory: Memory) -> Stepper:
        """Return the step over these clips."""
        return _ReplayedStepper(self._stepping, memory)


class Replays:
    """A function of tensors, recorded once for each combination of input shapes."""

    def __init__(self, function: Function, record: Recorder | None = None) -> None:
        self._function = function
        self._record = record or record_cuda_graph
        self._recorded: dict[
            tuple[torch.Size, ...],
            tuple[list[Tensor], Callable[[], None], Sequence[Tensor]],
        ] = {}

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run it; the outputs are the caller's own."""
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self._recorded:
            buffers = [tensor.clone() for tensor in inputs]
            self._recorded[shapes] = (buffers, *self._record(self._function, buffers))
        buffers, replay, outputs = self._recorded[shapes]
        for buffer, tensor in zip(buffers, inputs, strict=True):
            buffer.copy_(tensor, non_blocking=True)
        replay()
        return [output.clone() for output in outputs]


def record_cuda_graph(
    function: Function, buffers: Sequence[Tensor]
) -> tuple[Callable[[], None], Sequence[Tensor]]:
    """Record ``function(*buffers)`` as a CUDA graph, after warming it up on a side stream."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP_RUNS):
            function(*buffers)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function(*buffers)
    return graph.replay, outputs


class _ReplayedStepper:
    """Pads the clips to the recorded number; rows of padding are computed and cut off."""

    def __init__(self, stepping: Replays, memory: Memory) -> None:
        self._stepping = stepping
        self._clips = len(memory.values)
        self._bucket = _bucket(self._clips)
        self._memory = [_padded(part, self._bucket) for part in memory]

    def __call__(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        rows = len(tokens)
        padded_rows = rows // self._clips * self._bucket
        padded = [_padded(part, padded_rows) for part in (tokens, *state)]
        logits, *parts = self._stepping(*padded, *self._memory)
        return logits[:rows], DecoderState(*(part[:rows] for part in parts))


def _flat_step(decoder: Decoder) -> Function:
    def step(tokens: Tensor, *parts: Tensor) -> Sequence[Tensor]:
        state = DecoderState(*parts[: len(DecoderState._fields)])
        memory = Memory(*parts[len(DecoderState._fields) :])
        logits, new_state = decoder.step(tokens, state, memory)
        return logits, *new_state

    return step


def _bucket(count: int) -> int:
    """Round up to a power of two."""
    return 1 << max(0, count - 1).bit_length()


def _padded(tensor: Tensor, rows: int) -> Tensor:
    """Repeat the last row until there are ``rows``: padding that is as sound as the data."""
    short = rows - len(tensor)
    if short == 0:
        return tensor
    return torch.cat((tensor, tensor[-1:].expand(short, *tensor.shape[1:])))
