"""RNN decoders: one step at a time, from a word and a state to scores and the next state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.fusion import Memory, SoftAttention, TimeEncoding

__all__ = ["Decoder", "DecoderConfig", "DecoderState"]


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a decoder; ``window_frames`` is the longest window it was built for."""

    vocabulary_size: int
    feature_size: int
    word_size: int = 256
    hidden_size: int = 384
    value_size: int = 384
    attention_size: int = 256
    window_frames: int = 5
    dropout: float = 0.4


class DecoderState(NamedTuple):
    """LSTM state of each row, (rows, H), and the attention that led to it, (rows, P)."""

    hidden: Tensor
    cell: Tensor
    attention: Tensor


class Decoder(nn.Module):
    """Soft-attention LSTM (Xu et al. 2015), output from word, state and context (eq. 7)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.words = nn.Embedding(config.vocabulary_size, config.word_size, padding_idx=0)
        self.value = nn.Linear(config.feature_size, config.value_size)
        self.value_norm = nn.LayerNorm(config.value_size)
        self.time = TimeEncoding(config.value_size, config.window_frames)
        self.key = nn.Linear(config.value_size, config.attention_size, bias=False)
        self.attention = SoftAttention(size, config.attention_size, config.value_size)
        self.start = nn.Linear(config.value_size, 2 * size)
        self.cell = nn.LSTMCell(config.word_size + config.value_size, size)
        self.context_out = nn.Linear(config.value_size, size)
        self.word_out = nn.Linear(config.word_size, size, bias=False)
        self.output = nn.Linear(size, config.vocabulary_size)
        self.dropout = nn.Dropout(config.dropout)

    def memory(self, features: Tensor, frame_mask: Tensor) -> Memory:
        """Prepare (N, T, R, D) features for decoding.

        Args:
            features: Oldest frame first; frames that do not exist come *first* (left padding),
                so that the newest frame is always the last.
            frame_mask: (N, T), True where the frame exists.

        """
        count, frames, regions, _ = features.shape
        values = self.value_norm(torch.relu(self.value(features)))
        values = values + self.time(frames).view(1, frames, 1, -1)
        values = values.view(count, frames * regions, -1)
        mask = frame_mask.unsqueeze(-1).expand(count, frames, regions).reshape(count, -1)
        weight = mask.to(values.dtype).unsqueeze(-1)
        pooled = (values * weight).sum(1) / weight.sum(1)
        return Memory(values, self.key(values), mask, pooled)

    def initial_state(self, memory: Memory) -> DecoderState:
        """State before the first word, one row per clip (N, H)."""
        hidden, cell = torch.tanh(self.start(memory.pooled)).chunk(2, -1)
        return DecoderState(hidden.contiguous(), cell.contiguous(), memory.values[:, :, 0] * 0.0)

    def step(
        self, tokens: Tensor, state: DecoderState, memory: Memory
    ) -> tuple[Tensor, DecoderState]:
        """One word on: (rows,) tokens and a state of N * K rows to (rows, V) logits."""
        rows, clips = tokens.shape[0], memory.values.shape[0]
        word = self.dropout(self.words(tokens))
        hidden = state.hidden.view(clips, rows // clips, -1)
        context, weights = self.attention(hidden, memory)
        context = context.view(rows, -1)
        new_hidden, new_cell = self.cell(torch.cat((word, context), -1), (state.hidden, state.cell))
        mixed = self.dropout(new_hidden) + self.context_out(context) + self.word_out(word)
        logits = self.output(self.dropout(torch.tanh(mixed)))
        return logits, DecoderState(new_hidden, new_cell, weights.view(rows, -1))

    def forward(self, memory: Memory, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher forcing over (N, K, L) tokens that begin with <begin>.

        Returns:
            Logits (N, K, L - 1, V) for the next word, and attention (N, K, L - 1, P).

        """
        clips, captions, length = tokens.shape
        state = _repeat(self.initial_state(memory), captions)
        flat = tokens.view(clips * captions, length)
        steps = []
        attention = []
        for t in range(length - 1):
            logits, state = self.step(flat[:, t], state, memory)
            steps.append(logits)
            attention.append(state.attention)
        shape = (clips, captions, length - 1, -1)
        return torch.stack(steps, 1).view(shape), torch.stack(attention, 1).view(shape)


def _repeat(state: DecoderState, times: int) -> DecoderState:
    return DecoderState(*(part.repeat_interleave(times, 0) for part in state))
