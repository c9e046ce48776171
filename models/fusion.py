"""How vision meets language: each kind says what a step reads of its clip, and when.

``FUSIONS`` is the registry: pooled features at the start or at every step (Vinyals et al. 2015,
Mao et al. 2015), attention over frames x regions that is soft (Xu et al. 2015; additive or dot
product), hard (the same paper) or adaptive with a sentinel (Lu et al. 2017).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "FUSIONS",
    "AdaptiveAttention",
    "CellStep",
    "ConcatAtStart",
    "ConcatAtStep",
    "DotAttention",
    "Fusion",
    "FusionSizes",
    "HardAttention",
    "Memory",
    "SoftAttention",
    "TimeEncoding",
    "build_fusion",
]


class Memory(NamedTuple):
    """What a decoder may look at, once per clip and never repeated over beams.

    ``values`` is (N, P, C) with P = frames x regions, ``keys`` (N, P, A) their projection for
    attention (A is 0 where nothing attends), ``mask`` (N, P) True where a position exists,
    ``pooled`` (N, C) the mean of the values, ``concepts`` (N, W) the probability of each concept
    word (W is 0 without a concept head) and ``condition`` (N, E) what is added to every word the
    decoder reads.
    """

    values: Tensor
    keys: Tensor
    mask: Tensor
    pooled: Tensor
    concepts: Tensor
    condition: Tensor


class TimeEncoding(nn.Module):
    """A learned vector for each frame's place in the window, counted back from the newest."""

    def __init__(self, size: int, frames: int) -> None:
        super().__init__()
        self.table = nn.Embedding(frames, size)
        nn.init.zeros_(self.table.weight)

    def forward(self, frames: int) -> Tensor:
        """Return (T, size), oldest frame first."""
        newest_first = torch.arange(frames - 1, -1, -1, device=self.table.weight.device)
        encoded: Tensor = self.table(newest_first.clamp_max(self.table.num_embeddings - 1))
        return encoded


class FusionSizes(NamedTuple):
    """Lengths of the hidden state, of attention's keys, of a position's value and of a word."""

    hidden: int
    attention: int
    value: int
    word: int


class CellStep(NamedTuple):
    """What the cell read, (N, K, I), its hidden state before, and hidden and memory cell after.

    ``cell`` is (N, K, 0) for a cell that has none.
    """

    inputs: Tensor
    before: Tensor
    hidden: Tensor
    cell: Tensor


class Fusion(nn.Module):
    """What one step reads of its clip: something before the cell moves, something after it.

    Attributes:
        uses_keys: Whether it looks at ``Memory.keys``.
        input_size: How much it adds to the cell's input.
        context_size: How much it adds to what the next word is read from.

    """

    uses_keys = True

    def __init__(self, input_size: int, context_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.context_size = context_size

    def forward(self, hidden: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Look, from (N, K, H) states of the step before.

        Returns:
            The cell's input (N, K, input_size), and the weights (N, K, P) of what was looked at.

        """
        raise NotImplementedError

    def after(
        self, step: CellStep, seen: Tensor, weights: Tensor, memory: Memory
    ) -> tuple[Tensor, Tensor]:
        """Look again once the cell has moved: context (N, K, context_size) and weights (N, K, P).

        Unless a kind says otherwise, what the cell has read is the context.
        """
        return seen, weights


class ConcatAtStart(Fusion):
    """Pooled features set the first state, and no step looks again (Vinyals et al. 2015).

    In the terms of Tanti et al. 2018, Where to put the image in an image caption generator: init-
    inject.
    """

    uses_keys = False

    def __init__(self, sizes: FusionSizes, gate: bool) -> None:
        super().__init__(0, 0)

    def forward(self, hidden: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Look at nothing; the weights are those of the pooled start, even over all positions."""
        return hidden[..., :0], _even(hidden, memory)


class ConcatAtStep(Fusion):
    """Pooled features are concatenated to the word at every step (Mao et al. 2015; par-inject)."""

    uses_keys = False

    def __init__(self, sizes: FusionSizes, gate: bool) -> None:
        super().__init__(sizes.value, sizes.value)

    def forward(self, hidden: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Read the pooled features, and so look at every position evenly."""
        return _pooled(hidden, memory), _even(hidden, memory)


class Attention(Fusion):
    """Scores over the positions, weights from them, and a context that a gate may damp.

    The gate (Xu et al. 2015, section 4.2.1) is a sigmoid for each entry of the context.
    """

    def __init__(self, sizes: FusionSizes, gate: bool) -> None:
        super().__init__(sizes.value, sizes.value)
        self.query = nn.Linear(sizes.hidden, sizes.attention)
        self.gate = nn.Linear(sizes.hidden, sizes.value) if gate else None

    def forward(self, hidden: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Attend from (N, K, H) states to (N, P, C) values.

        Returns:
            The context (N, K, C) and the weights (N, K, P), which sum to one over P.

        """
        scores = self.scores(hidden, memory)
        weights = self.weigh(scores.masked_fill(~memory.mask.unsqueeze(1), float("-inf")))
        context = torch.bmm(weights, memory.values)
        if self.gate is not None:
            context = torch.sigmoid(self.gate(hidden)) * context
        return context, weights

    def scores(self, hidden: Tensor, memory: Memory) -> Tensor:
        """Score each position, (N, K, P)."""
        raise NotImplementedError

    def weigh(self, scores: Tensor) -> Tensor:
        """Turn scores, -inf where there is no position, into weights that sum to one."""
        return scores.softmax(-1)


class SoftAttention(Attention):
    """Additive attention (Bahdanau et al. 2015; Xu et al. 2015, Show, Attend and Tell, eq. 4-6)."""

    def __init__(self, sizes: FusionSizes, gate: bool) -> None:
        super().__init__(sizes, gate)
        self.score = nn.Linear(sizes.attention, 1, bias=False)

    def scores(self, hidden: Tensor, memory: Memory) -> Tensor:
        """Score by a small network of query and key."""
        mixed = torch.tanh(self.query(hidden).unsqueeze(2) + memory.keys.unsqueeze(1))
        scores: Tensor = self.score(mixed).squeeze(-1)
        return scores


class DotAttention(Attention):
    """Scaled dot-product attention (Luong et al. 2015, Vaswani et al. 2017).

    A matrix product where the additive form takes a tanh per query and position: on a CPU it
    costs a tenth.
    """

    def __init__(self, sizes: FusionSizes, gate: bool) -> None:
        super().__init__(sizes, gate)
        self.scale = sizes.attention**-0.5

    def scores(self, hidden: Tensor, memory: Memory) -> Tensor:
        """Score by the product of query and key."""
        return torch.bmm(self.query(hidden) * self.scale, memory.keys.transpose(1, 2))


class HardAttention(SoftAttention):
    """One position a step: sampled in training, the most likely one when serving.

    Xu et al. 2015, section 4.1. The gradient goes straight through a Gumbel-softmax sample (Jang
    et al. 2017) where the paper uses REINFORCE with a moving baseline: the same look, with less
    variance. As in the paper, half of the steps take the expected context instead.
    """

    def weigh(self, scores: Tensor) -> Tensor:
        """Return weights that are 1 at one position and 0 elsewhere."""
        if not self.training:
            best = (scores == scores.amax(-1, keepdim=True)).to(scores.dtype)
            return best * (best.cumsum(-1) == 1)  # the first of equals; argmax would not export
        sampled = F.gumbel_softmax(scores.float(), hard=True).to(scores.dtype)
        expected = torch.rand_like(scores[..., :1]) < 0.5
        return torch.where(expected, scores.softmax(-1), sampled)


class AdaptiveAttention(Fusion):
    """Attention that may rest on what the decoder knows (Lu et al. 2017, Knowing When to Look).

    The cell reads the pooled features; then its new state attends to the positions and to a
    sentinel, a gated part of the memory cell (of the hidden state where a cell has none). The
    weights sum to one less the sentinel's share: a word like "of" is barely looked at.
    """

    def __init__(self, sizes: FusionSizes, gate: bool) -> None:
        super().__init__(sizes.value, sizes.value)
        self.query = nn.Linear(sizes.hidden, sizes.attention)
        self.score = nn.Linear(sizes.attention, 1, bias=False)
        self.sentinel_input = nn.Linear(sizes.word + sizes.value, sizes.hidden)
        self.sentinel_hidden = nn.Linear(sizes.hidden, sizes.hidden, bias=False)
        self.sentinel_value = nn.Linear(sizes.hidden, sizes.value)
        self.sentinel_key = nn.Linear(sizes.value, sizes.attention, bias=False)

    def forward(self, hidden: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Read the pooled features."""
        return _pooled(hidden, memory), _even(hidden, memory)

    def after(
        self, step: CellStep, seen: Tensor, weights: Tensor, memory: Memory
    ) -> tuple[Tensor, Tensor]:
        """Attend from the new state to the positions and the sentinel (eq. 9-13)."""
        sentinel = self._sentinel(step)
        query = self.query(step.hidden).unsqueeze(2)
        scores = self.score(torch.tanh(query + memory.keys.unsqueeze(1))).squeeze(-1)
        scores = scores.masked_fill(~memory.mask.unsqueeze(1), float("-inf"))
        own = self.score(torch.tanh(query + self.sentinel_key(sentinel).unsqueeze(2))).squeeze(-1)
        shares = torch.cat((scores, own), -1).softmax(-1)
        looked = shares[..., :-1]
        context = torch.bmm(looked, memory.values) + shares[..., -1:] * sentinel
        return context, looked

    def _sentinel(self, step: CellStep) -> Tensor:
        gate = torch.sigmoid(self.sentinel_input(step.inputs) + self.sentinel_hidden(step.before))
        kept = step.cell if step.cell.shape[-1] else step.hidden
        value: Tensor = self.sentinel_value(gate * torch.tanh(kept))
        return value


def _pooled(hidden: Tensor, memory: Memory) -> Tensor:
    return memory.pooled.unsqueeze(1).expand(-1, hidden.shape[1], -1)


def _even(hidden: Tensor, memory: Memory) -> Tensor:
    share = memory.mask.to(hidden.dtype)
    share = share / share.sum(1, keepdim=True)
    return share.unsqueeze(1).expand(-1, hidden.shape[1], -1)


FUSIONS: dict[str, type[ConcatAtStart | ConcatAtStep | Attention | AdaptiveAttention]] = {
    "concat-start": ConcatAtStart,
    "concat-step": ConcatAtStep,
    "additive": SoftAttention,
    "dot": DotAttention,
    "hard": HardAttention,
    "adaptive": AdaptiveAttention,
}


def build_fusion(name: str, sizes: FusionSizes, gate: bool = True) -> Fusion:
    """Build the fusion of this name; ``gate`` is for ``additive``, ``dot`` and ``hard`` attention.

    Raises:
        ValueError: No fusion has this name.

    """
    if name not in FUSIONS:
        raise ValueError(f"no fusion is called {name!r}; there are {', '.join(FUSIONS)}")
    return FUSIONS[name](sizes, gate)
