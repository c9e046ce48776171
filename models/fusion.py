"""How vision meets language: soft attention over frames and regions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["DotAttention", "Memory", "SoftAttention", "TimeEncoding", "build_attention"]


class Memory(NamedTuple):
    """What a decoder may look at, once per clip and never repeated over beams.

    ``values`` is (N, P, C) with P = frames x regions, ``keys`` (N, P, A) their projection for
    attention, ``mask`` (N, P) True where a position exists, ``pooled`` (N, C) their mean,
    ``concepts`` (N, W) the probability of each concept word (W is 0 without a concept head) and
    ``condition`` (N, E) what they add to every word the decoder reads.
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


class SoftAttention(nn.Module):
    """Additive attention with a gate (Xu et al. 2015, Show, Attend and Tell, eq. 4-6 and 4.2.1)."""

    def __init__(self, hidden_size: int, attention_size: int, value_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, attention_size)
        self.score = nn.Linear(attention_size, 1, bias=False)
        self.gate = nn.Linear(hidden_size, value_size)

    def forward(self, hidden: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Attend from (N, K, H) states to (N, P, C) values.

        Returns:
            The gated context (N, K, C) and the weights (N, K, P), which sum to one over P.

        """
        scores = torch.tanh(self.query(hidden).unsqueeze(2) + memory.keys.unsqueeze(1))
        logits = self.score(scores).squeeze(-1)
        logits = logits.masked_fill(~memory.mask.unsqueeze(1), float("-inf"))
        weights = logits.softmax(-1)
        context = torch.bmm(weights, memory.values)
        return torch.sigmoid(self.gate(hidden)) * context, weights


class DotAttention(nn.Module):
    """Scaled dot-product attention (Luong et al. 2015, Vaswani et al. 2017) with the same gate.

    A matrix product where the additive form takes a tanh per query and position: on a CPU it
    costs a tenth.
    """

    def __init__(self, hidden_size: int, attention_size: int, value_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, attention_size)
        self.gate = nn.Linear(hidden_size, value_size)
        self.scale = attention_size**-0.5

    def forward(self, hidden: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Attend from (N, K, H) states to (N, P, C) values, as :class:`SoftAttention` does."""
        logits = torch.bmm(self.query(hidden) * self.scale, memory.keys.transpose(1, 2))
        logits = logits.masked_fill(~memory.mask.unsqueeze(1), float("-inf"))
        weights = logits.softmax(-1)
        context = torch.bmm(weights, memory.values)
        return torch.sigmoid(self.gate(hidden)) * context, weights


_ATTENTION: dict[str, type[SoftAttention | DotAttention]] = {
    "additive": SoftAttention,
    "dot": DotAttention,
}


def build_attention(
    name: str, hidden_size: int, attention_size: int, value_size: int
) -> SoftAttention | DotAttention:
    """Build ``additive`` or ``dot`` attention.

    Raises:
        ValueError: No attention has this name.

    """
    if name not in _ATTENTION:
        raise ValueError(f"no attention is called {name!r}; there are {', '.join(_ATTENTION)}")
    return _ATTENTION[name](hidden_size, attention_size, value_size)
