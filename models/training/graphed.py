"""A training step on CUDA as one launch: its kernels are recorded once and replayed.

A step of a recurrent decoder is thousands of small kernels, and launching them takes several times
as long as running them. Recorded as a CUDA graph (one for each shape of batch) they are launched at
once. Elsewhere, and for shapes that come seldom, a step runs as it is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Graphed"]

Step = Callable[..., Tensor]
_SEEN_BEFORE = 3
"""A shape runs so often as it is written before it is recorded: libraries choose their kernels and
optimizers make their state then."""


class Graphed:
    """Calls ``step`` on tensors of one device, from a recorded graph where that is possible.

    All that ``step`` reads and writes besides its arguments must keep its place in memory, it must
    not wait for the device, and what it returns is overwritten by the next call.
    """

    def __init__(self, step: Step, device: torch.device, record: bool = True) -> None:
        self._step, self._device = step, device
        self._record = record and device.type == "cuda"
        self._seen: Counter[tuple[torch.Size, ...]] = Counter()
        self._graphs: dict[
            tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Tensor]
        ] = {}

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Run the step on tensors, which may lie elsewhere: they are copied to the device."""
        if not self._record:
            return self._step(*(tensor.to(self._device) for tensor in tensors))
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes in self._graphs:
            graph, inputs, output = self._graphs[shapes]
            for place, tensor in zip(inputs, tensors, strict=True):
                place.copy_(tensor, non_blocking=True)
            graph.replay()
            return output
        inputs = tuple(tensor.to(self._device).clone() for tensor in tensors)
        self._seen[shapes] += 1
        if self._seen[shapes] <= _SEEN_BEFORE:
            return self._as_written(inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self._step(*inputs)
        self._graphs[shapes] = graph, inputs, output
        graph.replay()
        return output

    def _as_written(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Run on a stream of its own, as recording does, so that both make the same choices."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            output = self._step(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return output
