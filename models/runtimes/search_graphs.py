"""Whole beam searches as CUDA graphs.

A step of the search is some fifty small kernels, and launching them one by one takes a GPU many
times as long as running them. So a search is recorded in legs of ``check_every`` steps, each leg
reading what the leg before it left, without a copy; between two legs the host looks whether any
image still searches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.hypotheses import Hypothesis, Record
from models.runtimes.replays import Recorder, bucket, padded
from models.search import BeamSearch, Front, SearchConfig

__all__ = ["SearchGraphs"]

_MOST = 32
"""How many searches, by size and settings, are kept recorded; each holds a batch's memory."""

MemoryStep = Callable[[Tensor, Any, Any], "tuple[Tensor, Any]"]
"""``step(tokens, state, memory)``: both are NamedTuples of tensors, an image's row each."""
Trace = Callable[[Any], Tensor]


class SearchGraphs:
    """Searches with one step, recorded once for each size and configuration."""

    def __init__(self, step: MemoryStep, record: Recorder) -> None:
        self._step = step
        self._record = record
        self._recorded: dict[tuple[Any, ...], _RecordedSearch] = {}

    def __call__(
        self, state: Any, memory: Any, config: SearchConfig, trace: Trace | None
    ) -> list[list[Hypothesis]]:
        """Search from a state over a memory; see :func:`models.search.search`."""
        images = len(state[0])
        if not images:
            return []
        size = bucket(images)
        state = type(state)(*(padded(part, size) for part in state))
        memory = type(memory)(*(padded(part, size) for part in memory))
        never = _repeated(config.forbidden)
        shapes = tuple(part.shape for part in (*state, *memory))
        key = (replace(config, forbidden=()), len(never), trace, shapes)
        found = self._recorded.pop(key, None)
        if found is None:
            if len(self._recorded) >= _MOST:
                self._recorded.pop(next(iter(self._recorded)))  # the one not used for longest
            found = _RecordedSearch(self._step, self._record, state, memory, config, trace)
        self._recorded[key] = found
        return found.run(state, memory, never, images)


class _Leg(NamedTuple):
    """Steps up to ``done``: a replay, how many images then go on, and what was traced."""

    done: int
    replay: Callable[[], None]
    going: Tensor
    traces: Sequence[Tensor]


class _RecordedSearch:
    def __init__(
        self,
        step: MemoryStep,
        record: Recorder,
        state: Any,
        memory: Any,
        config: SearchConfig,
        trace: Trace | None,
    ) -> None:
        self._config = config
        self._state = type(state)(*(part.clone() for part in state))
        self._memory = type(memory)(*(part.clone() for part in memory))
        like = self._state[0]
        self._never = torch.tensor(_repeated(config.forbidden), dtype=torch.int64).to(like.device)
        bound = partial(_step_over, step, self._memory)
        self._search: BeamSearch[Any] = BeamSearch(bound, config, self._never, (), trace)
        beam, alpha = config.beam_size, config.length_penalty
        self._book = Record(config.max_length, len(like), beam, alpha, like)
        self._legs = self._record_legs(record)

    def _record_legs(self, record: Recorder) -> list[_Leg]:
        legs, inputs = [], list(self._state)
        kept = len(Front._fields) - 1 + len(self._state)
        for first in range(0, self._config.max_length, self._config.check_every):
            done = min(first + self._config.check_every, self._config.max_length)
            replay, outputs = record(partial(self._leg, range(first, done)), inputs)
            replay()  # the next leg is warmed up on what this one leaves
            legs.append(_Leg(done, replay, outputs[kept], outputs[kept + 1 :]))
            inputs = list(outputs[:kept])
        return legs

    def _leg(self, steps: range, *inputs: Tensor) -> list[Tensor]:
        if steps.start == 0:
            self._book.clear()
            front, parts = self._search.start(inputs[0]), inputs
        else:
            front, parts = Front(None, *inputs[:3]), inputs[3:]
        state, traces = type(self._state)(*parts), []
        for t in steps:
            front, state, seen = self._search.advance(front, state, self._book, t)
            traces += [] if seen is None else [seen]
        going = self._search.going(front, self._book, steps.stop).sum()
        return [front.tokens, front.live, front.history, *state, going, *traces]

    def run(
        self, state: Any, memory: Any, never: Sequence[int], images: int
    ) -> list[list[Hypothesis]]:
        buffers = (*self._state, *self._memory, self._never)
        tensors = (*state, *memory, torch.tensor(never, dtype=torch.int64))
        for buffer, tensor in zip(buffers, tensors, strict=True):
            buffer.copy_(tensor)
        traces: list[Tensor] = []
        for leg in self._legs:
            leg.replay()
            traces += leg.traces
            if leg.done < self._config.max_length and not int(leg.going):
                break
        return self._book.hypotheses(self._config.n_best, images, traces)


def _step_over(step: MemoryStep, memory: Any, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
    return step(tokens, state, memory)


def _repeated(tokens: Sequence[int]) -> list[int]:
    """Tokens, some of them repeated up to a power of two: few sizes for many lists."""
    known = sorted(set(tokens))
    return known + known[-1:] * (bucket(len(known)) - len(known)) if known else []
