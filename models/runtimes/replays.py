"""Functions of tensors, recorded as CUDA graphs: fixed shapes, fixed addresses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["CudaRecorder", "Function", "Recorder", "Replays", "bucket", "padded"]

Function = Callable[..., Sequence[Tensor]]
Recorder = Callable[[Function, Sequence[Tensor]], "tuple[Callable[[], None], Sequence[Tensor]]"]
"""From a function and its input buffers to a replay, and the buffers that replay fills."""

_WARM_UP_RUNS = 3


class CudaRecorder:
    """Records functions on one device as CUDA graphs that share one pool of memory.

    They may: all run one after the other on one stream, and what a graph leaves is copied, or read
    by the next graph of its search, before another of them runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(
        self, function: Function, buffers: Sequence[Tensor]
    ) -> tuple[Callable[[], None], Sequence[Tensor]]:
        """Record ``function(*buffers)``, after warming it up on a side stream."""
        with torch.cuda.device(self._device):
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP_RUNS):
                    function(*buffers)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Other threads of the program may use the device meanwhile.
            with torch.cuda.graph(graph, self._pool, capture_error_mode="thread_local"):
                outputs = function(*buffers)
        return graph.replay, outputs


class Replays:
    """A function of tensors, recorded once for each combination of input shapes."""

    def __init__(self, function: Function, record: Recorder) -> None:
        self._function = function
        self._record = record
        self._recorded: dict[tuple[torch.Size, ...], _Recorded] = {}

    def __call__(self, *inputs: Tensor, constants: Sequence[Tensor] = ()) -> list[Tensor]:
        """Run it; the outputs are the caller's own.

        ``constants`` are further inputs, copied only where they are other tensors than those of
        the last call of the same shapes; they must not be written to in between.
        """
        shapes = tuple(tensor.shape for tensor in (*inputs, *constants))
        if shapes not in self._recorded:
            buffers = [tensor.clone() for tensor in (*inputs, *constants)]
            self._recorded[shapes] = _Recorded(buffers, *self._record(self._function, buffers))
        return self._recorded[shapes].run(inputs, constants)


class _Recorded:
    def __init__(
        self, buffers: list[Tensor], replay: Callable[[], None], outputs: Sequence[Tensor]
    ) -> None:
        self._buffers, self._replay, self._outputs = buffers, replay, outputs
        self._constants: Sequence[Tensor] = ()

    def run(self, inputs: Sequence[Tensor], constants: Sequence[Tensor]) -> list[Tensor]:
        moving, fixed = self._buffers[: len(inputs)], self._buffers[len(inputs) :]
        _fill(moving, inputs)
        if not (self._constants and all(map(_same, self._constants, constants))):
            _fill(fixed, constants)
            self._constants = tuple(constants)
        self._replay()
        return [output.clone() for output in self._outputs]


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other


def _fill(buffers: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    for buffer, tensor in zip(buffers, tensors, strict=True):
        buffer.copy_(tensor, non_blocking=True)


def bucket(count: int) -> int:
    """Round up to a power of two."""
    return 1 << max(0, count - 1).bit_length()


def padded(tensor: Tensor, rows: int) -> Tensor:
    """Repeat the last row until there are ``rows``: padding that is as sound as the data."""
    short = rows - len(tensor)
    if short == 0:
        return tensor
    return torch.cat((tensor, tensor[-1:].expand(short, *tensor.shape[1:])))
