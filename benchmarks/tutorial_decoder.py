"""The decoder of a widely copied captioning tutorial, and three ways to search with it.

Its shape: additive attention over 196 regions of 2,048 features, a gate, an LSTM of 512, a
vocabulary of 9,490 words. :func:`tutorial_search` is our own writing of the way its users search:
one image at a time, features repeated over the beams, projected again at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.hypotheses import Hypothesis
from models.runtimes.openvino import Graph
from models.runtimes.replays import CudaRecorder
from models.runtimes.search_graphs import SearchGraphs
from models.search import SearchConfig

__all__ = [
    "GraphStep",
    "PlainStep",
    "ReplayedStep",
    "TutorialDecoder",
    "TutorialState",
    "TutorialStep",
    "matrix_floor",
    "tutorial_search",
]

REGIONS, FEATURES, HIDDEN, WORDS = 196, 2048, 512, 9490
BEGIN, END = 1, 2
_PIECE = 7
_STATES_BY = 8
_FEW_ROWS = 16
"""A step of so few rows waits for its weights: rows less save nothing."""


class TutorialState(NamedTuple):
    """LSTM state, (rows, 512) each."""

    hidden: Tensor
    cell: Tensor


class TutorialDecoder(nn.Module):
    """The layers; random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Linear(FEATURES, HIDDEN)
        self.query = nn.Linear(HIDDEN, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1)
        self.gate = nn.Linear(HIDDEN, FEATURES)
        self.words = nn.Embedding(WORDS, HIDDEN)
        self.cell = nn.LSTMCell(HIDDEN + FEATURES, HIDDEN)
        self.start_hidden = nn.Linear(FEATURES, HIDDEN)
        self.start_cell = nn.Linear(FEATURES, HIDDEN)
        self.output = nn.Linear(HIDDEN, WORDS)

    def initial_state(self, features: Tensor) -> TutorialState:
        mean = features.mean(1)
        return TutorialState(self.start_hidden(mean), self.start_cell(mean))


def tutorial_search(
    decoder: TutorialDecoder, features: Tensor, beam: int, steps: int
) -> list[list[int]]:
    """Search image by image with everything repeated over beams; the end is not allowed."""
    return [_one_image(decoder, one.unsqueeze(0), beam, steps) for one in features]


def _one_image(decoder: TutorialDecoder, features: Tensor, beam: int, steps: int) -> list[int]:
    features = features.expand(beam, REGIONS, FEATURES)
    previous = torch.full((beam, 1), BEGIN, device=features.device)
    sequences, scores = previous, torch.zeros(beam, 1, device=features.device)
    hidden, cell = decoder.initial_state(features)
    for step in range(steps):
        embedded = decoder.words(previous).squeeze(1)
        keys, query = decoder.key(features), decoder.query(hidden)
        weights = decoder.score(torch.relu(keys + query.unsqueeze(1))).squeeze(2).softmax(1)
        context = (features * weights.unsqueeze(2)).sum(1)
        context = torch.sigmoid(decoder.gate(hidden)) * context
        hidden, cell = decoder.cell(torch.cat([embedded, context], 1), (hidden, cell))
        log_probs = torch.log_softmax(decoder.output(hidden), 1)
        log_probs[:, END] = float("-inf")
        log_probs = scores.expand_as(log_probs) + log_probs
        flat = log_probs[0] if step == 0 else log_probs.view(-1)
        best, words = flat.topk(beam, 0)
        beams, words = words // WORDS, words % WORDS
        sequences = torch.cat([sequences[beams], words.unsqueeze(1)], 1)
        hidden, cell, features = hidden[beams], cell[beams], features[beams]
        scores, previous = best.unsqueeze(1), words.unsqueeze(1)
    best_row = int(scores.squeeze(1).argmax())
    chosen: list[int] = sequences[best_row, 1:].tolist()
    return chosen


class TutorialStep(nn.Module):
    """The same layers as a step of :func:`models.search.search`: keys once, nothing repeated.

    What a word alone puts into the LSTM's gates is looked up in a table made beforehand, and what
    reads the hidden state (query, gate, LSTM) is one product.
    """

    def __init__(self, decoder: TutorialDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        of_word, of_context = decoder.cell.weight_ih.split((HIDDEN, FEATURES), 1)
        bias = decoder.cell.bias_ih + decoder.cell.bias_hh
        with torch.no_grad():
            table = F.linear(decoder.words.weight, of_word, bias)
        self.register_buffer("word_gates", table)
        readers = (decoder.query, decoder.gate)
        nothing = torch.zeros(4 * HIDDEN)
        weights = (*(reader.weight for reader in readers), decoder.cell.weight_hh)
        self.register_buffer("of_hidden", torch.cat(weights).detach())
        biases = (*(reader.bias for reader in readers), nothing.to(bias.device))
        self.register_buffer("hidden_bias", torch.cat(biases).detach())
        self.register_buffer("of_context", of_context.detach().clone())

    def forward(
        self, tokens: Tensor, hidden: Tensor, cell: Tensor, features: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(rows,) tokens, states, features (N, 196, 2048) and keys (N, 196, 512)."""
        rows, images = tokens.shape[0], features.shape[0]
        read = F.linear(hidden, self.of_hidden, self.hidden_bias)
        query, gate, own = read.split([HIDDEN, FEATURES, 4 * HIDDEN], -1)
        query = query.reshape(images, rows // images, -1)
        context = torch.bmm(self.scores(query, keys).softmax(-1), features).view(rows, -1)
        context = torch.sigmoid(gate) * context
        gates = F.linear(context, self.of_context) + own + self.word_gates[tokens]
        return self.move(gates, cell)

    def move(self, gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, hidden state and memory cell from the LSTM's gates (rows, 2048)."""
        admit, forget, new, show = gates.chunk(4, -1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(admit) * torch.tanh(new)
        hidden = torch.sigmoid(show) * torch.tanh(cell)
        return self.decoder.output(hidden), hidden, cell

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """Score (N, beams, 196) of each region, from queries (N, beams, 512)."""
        mixed = torch.relu(keys.unsqueeze(1) + query.unsqueeze(2))
        return (mixed * self.decoder.score.weight.view(-1)).sum(-1)


class SharedState(NamedTuple):
    """LSTM state, (rows, 512) each, and which row of the step before each row is, (rows, 1) int64.

    The search moves all parts alike, so rows of the same number are at the same state.
    """

    hidden: Tensor
    cell: Tensor
    row: Tensor


class SharedRows(NamedTuple):
    """Which rows are at the same state, so that it is worked on once.

    ``first`` (states,) is a row of each state; ``state`` (rows,) the state of each row; ``slots``
    (N, most states of an image) the states of each image, its last one repeated where it has
    fewer; ``place`` (states,) where in ``slots``, read along, each state stands.
    """

    first: Tensor
    state: Tensor
    slots: Tensor
    place: Tensor

    @classmethod
    def of(cls, row: Tensor, images: int, beams_before: int) -> SharedRows:
        """From each row's number in the step before, which had ``beams_before`` an image."""
        rows = np.arange(len(row))
        if len(rows) == images or len(rows) <= _FEW_ROWS:
            whole = torch.from_numpy(rows)
            return cls(whole, whole, whole.view(images, -1), whole)
        numbers = row.view(-1).numpy()
        there = np.zeros(images * beams_before, bool)
        there[numbers] = True
        state = (there.cumsum() - 1)[numbers]
        count = there.reshape(images, -1).sum(1)
        end, most = count.cumsum(), count.max()
        first = np.empty(end[-1], np.int64)
        first[state] = rows
        slots = (end - count)[:, None] + np.minimum(np.arange(most), count[:, None] - 1)
        place = np.empty_like(first)
        place[slots] = np.arange(slots.size).reshape(slots.shape)
        # A few sizes only: the runtime makes machine code for each.
        more = min(-len(first) % _STATES_BY, len(rows) - len(first))
        first, place = (np.pad(part, (0, more), "edge") for part in (first, place))
        return cls(*map(torch.from_numpy, (first, state, slots, place)))


class SharedStep(TutorialStep):
    """The same with keys (196, N, 512), a few regions at a time, and each state once.

    Beams that continue one prefix are at the same state: what is computed from it, all but the
    word and what comes after, is computed once for all of them. What stands between the sum of
    key and query and its score is a megabyte, which stays in a processor's cache, where that of
    all regions is 32 (batch 16, beam 5). Regions first, so that a piece is not a copy.
    """

    def forward(  # type: ignore[override]
        self,
        tokens: Tensor,
        hidden: Tensor,
        cell: Tensor,
        features: Tensor,
        keys: Tensor,
        *shared: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(rows,) tokens, states (states, 512), and :class:`SharedRows` without its ``first``."""
        state, slots, place = shared
        read = F.linear(hidden, self.of_hidden, self.hidden_bias)
        query, gate, own = read.split([HIDDEN, FEATURES, 4 * HIDDEN], -1)
        weights = self.scores(query[slots], keys).softmax(-1)
        context = torch.bmm(weights, features).flatten(0, 1)[place]
        gates = F.linear(torch.sigmoid(gate) * context, self.of_context) + own
        return self.move(gates[state] + self.word_gates[tokens], cell[state])

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """Score (N, beams, 196) of each region, less what is the same for all of a beam's.

        relu(k + q) = max(k, -q) + q, and q by itself moves no softmax over regions.
        """
        weight, query = self.decoder.score.weight.view(-1), -query
        pieces = keys.unsqueeze(2).split([_PIECE] * (REGIONS // _PIECE))
        scores = [(torch.maximum(piece, query) * weight).sum(-1) for piece in pieces]
        return torch.cat(scores).permute(1, 2, 0)


class GraphStep:
    """:class:`SharedStep` through the same runtime as the shipped model's."""

    def __init__(self, decoder: TutorialDecoder) -> None:
        images, states, rows = 2, 4, 6
        whole = torch.zeros(rows, dtype=torch.int64)
        examples = [
            whole,
            torch.zeros(states, HIDDEN),
            torch.zeros(states, HIDDEN),
            torch.zeros(images, REGIONS, FEATURES),
            torch.zeros(REGIONS, images, HIDDEN),
            whole,
            whole.view(images, -1),
            whole[:states],
        ]
        shapes = [
            *([-1], [-1, HIDDEN], [-1, HIDDEN]),
            *([-1, REGIONS, FEATURES], [REGIONS, -1, HIDDEN]),
            *([-1], [-1, -1], [-1]),
        ]
        self._run = Graph(SharedStep(decoder), examples, shapes).compile(
            "f32", torch.get_num_threads()
        )
        self._decoder = decoder
        self._bound: tuple[Tensor, Tensor] | None = None
        self._beams = 1

    def bind(self, features: Tensor) -> SharedState:
        """Project features (N, 196, 2048) once; return the state to begin with."""
        keys = self._decoder.key(features).transpose(0, 1).contiguous()
        self._bound, self._beams = (features, keys), 1
        return SharedState(*self._decoder.initial_state(features), _numbered(len(features)))

    def __call__(self, tokens: Tensor, state: SharedState) -> tuple[Tensor, SharedState]:
        assert self._bound is not None
        images = len(self._bound[0])
        shared = SharedRows.of(state.row, images, self._beams)
        once = (part.index_select(0, shared.first) for part in state[:2])
        logits, hidden, cell = self._run([tokens, *once, *self._bound, *shared[1:]])
        self._beams = len(tokens) // images
        return logits, SharedState(hidden, cell, _numbered(len(tokens)))


def _numbered(rows: int) -> Tensor:
    return torch.arange(rows).unsqueeze(1)


class TutorialMemory(NamedTuple):
    """Features (N, 196, 2048) and their keys (N, 196, 512)."""

    features: Tensor
    keys: Tensor


class PlainStep:
    """:class:`TutorialStep` in plain PyTorch, on any device."""

    def __init__(self, decoder: TutorialDecoder) -> None:
        self.device = decoder.output.weight.device
        self._step = TutorialStep(decoder).to(self.device)
        self._decoder = decoder
        self._bound: TutorialMemory | None = None

    def bind(self, features: Tensor) -> TutorialState:
        """Project features (N, 196, 2048) once; return the state to begin with."""
        self._bound = TutorialMemory(features, self._decoder.key(features))
        return self._decoder.initial_state(features)

    def one_word(
        self, tokens: Tensor, state: TutorialState, memory: TutorialMemory
    ) -> tuple[Tensor, TutorialState]:
        logits, *parts = self._step(tokens, *state, *memory)
        return logits, TutorialState(*parts)

    def __call__(self, tokens: Tensor, state: TutorialState) -> tuple[Tensor, TutorialState]:
        assert self._bound is not None
        return self.one_word(tokens, state, self._bound)


class ReplayedStep(PlainStep):
    """The same on a GPU, searched with as recorded CUDA graphs."""

    def __init__(self, decoder: TutorialDecoder) -> None:
        super().__init__(decoder)
        self._searching = SearchGraphs(self.one_word, CudaRecorder(self.device))

    def search(
        self,
        state: TutorialState,
        config: SearchConfig,
        trace: Callable[[TutorialState], Tensor] | None,
    ) -> list[list[Hypothesis]]:
        assert self._bound is not None
        return self._searching(state, self._bound, config, trace)


def matrix_floor(decoder: TutorialDecoder, features: Tensor, beam: int, steps: int) -> None:
    """Only a search's matrix products, by PyTorch, nothing between; each row's, shared or not."""
    images = len(features)
    rows = images * beam
    hidden = features.new_zeros(rows, HIDDEN)
    read = features.new_zeros(rows, HIDDEN + FEATURES)
    weights = features.new_zeros(images, beam, REGIONS)
    F.linear(features, decoder.key.weight)
    for _ in range(steps):
        F.linear(hidden, decoder.query.weight)
        F.linear(hidden, decoder.gate.weight)
        torch.bmm(weights, features)
        F.linear(read, decoder.cell.weight_ih)
        F.linear(hidden, decoder.cell.weight_hh)
        F.linear(hidden, decoder.output.weight)
