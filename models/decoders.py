"""RNN decoders: one step at a time, from a word and a state to scores and the next state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.cells import build_cell
from models.concepts import ConceptHead, ConceptLook, HazardReadout
from models.fusion import CellStep, FusionSizes, Memory, TimeEncoding, build_fusion
from models.latent import CaptionLatent

__all__ = ["Decoder", "DecoderConfig", "DecoderState", "FrameLook"]


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a decoder; ``window_frames`` is the longest window it was built for.

    ``attention`` names a fusion (:data:`models.fusion.FUSIONS`), ``gate`` lets it damp what it
    sees, ``cell`` names the recurrence (:data:`models.cells.CELLS`); ``concept_count`` 0 leaves
    the concept head out, ``latent_size`` 0 the latent, and ``hazard_count`` is how many concepts,
    the first ones, are told by a :class:`~models.concepts.HazardReadout` instead; the decoder
    goes by them where it was trained to (``hazards_condition``), else by the concept head's own.
    ``evidence_size`` channels stand behind the features for the read-out alone.
    """

    vocabulary_size: int
    feature_size: int
    word_size: int = 256
    hidden_size: int = 384
    value_size: int = 384
    attention_size: int = 256
    window_frames: int = 5
    dropout: float = 0.4
    attention: str = "additive"
    concept_count: int = 0
    concept_size: int = 256
    cell: str = "lstm"
    gate: bool = True
    latent_size: int = 0
    hazard_count: int = 0
    hazards_condition: bool = True
    evidence_size: int = 0


class DecoderState(NamedTuple):
    """State of each row, (rows, H), and the attention of its newest word, (rows, P).

    ``cell`` is (rows, 0) where the recurrence has no memory cell.
    """

    hidden: Tensor
    cell: Tensor
    attention: Tensor


class FrameLook(NamedTuple):
    """What a decoder sees of frames, each for itself; D, W and others as in :class:`Memory`.

    ``values`` (..., R, C) and ``keys`` (..., R, A) without their time, what the concept head sees,
    and the greatest (``most``) and ``mean`` of each feature, (..., D), for the read-out. What a
    decoder does not need has length 0.
    """

    values: Tensor
    keys: Tensor
    concept_values: Tensor
    concept_regions: Tensor
    concept_whole: Tensor
    most: Tensor
    mean: Tensor

    @property
    def concepts(self) -> ConceptLook:
        """What the concept head sees."""
        return ConceptLook(self.concept_values, self.concept_regions, self.concept_whole)


class Decoder(nn.Module):
    """Recurrent decoder that reads its clip through a fusion.

    By default Xu et al. 2015: soft attention, LSTM, output from word, state and context (eq. 7).
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.words = nn.Embedding(config.vocabulary_size, config.word_size, padding_idx=0)
        self.value = nn.Linear(config.feature_size, config.value_size)
        self.value_norm = nn.LayerNorm(config.value_size)
        self.time = TimeEncoding(config.value_size, config.window_frames)
        sizes = FusionSizes(size, config.attention_size, config.value_size, config.word_size)
        self.attention = build_fusion(config.attention, sizes, config.gate)
        self.key: nn.Linear | None = None
        if self.attention.uses_keys:
            self.key = nn.Linear(config.value_size, config.attention_size, bias=False)
        self.cell = build_cell(config.cell, config.word_size + self.attention.input_size, size)
        self.start = nn.Linear(config.value_size, self.cell.parts * size)
        self.context_out: nn.Linear | None = None
        if self.attention.context_size:
            self.context_out = nn.Linear(self.attention.context_size, size)
        self.word_out = nn.Linear(config.word_size, size, bias=False)
        self.output = nn.Linear(size, config.vocabulary_size)
        self.dropout = nn.Dropout(config.dropout)
        self.concepts: ConceptHead | None = None
        if config.concept_count:
            self.concepts = ConceptHead(
                config.feature_size, config.concept_size, config.concept_count
            )
            self.condition = nn.Linear(config.concept_count, config.word_size, bias=False)
            self.concept_dropout = nn.Dropout(0.2)
        self.latent: CaptionLatent | None = None
        if config.latent_size:
            self.latent = CaptionLatent(config.value_size, config.word_size, config.latent_size)
        self.readout: HazardReadout | None = None
        if config.hazard_count:
            self.readout = HazardReadout(
                config.evidence_size or config.feature_size, config.hazard_count
            )

    def attach(self, readout: HazardReadout, conditions: bool) -> None:
        """Let a fitted read-out tell the first concepts, and the decoder go by it or not."""
        self.readout = readout
        count = len(readout.offset)
        self.config = replace(self.config, hazard_count=count, hazards_condition=conditions)

    def memory(self, features: Tensor, frame_mask: Tensor, hazards: Tensor | None = None) -> Memory:
        """Prepare (N, T, R, D + E) features for decoding; a latent stands at its prior's mean.

        Args:
            features: Oldest frame first; frames that do not exist come *first* (left padding),
                so that the newest frame is always the last.
            frame_mask: (N, T), True where the frame exists.
            hazards: (N, H) probabilities to go by instead of the read-out's own; for training,
                where those of scenes the read-out was fitted on are too good to be true.

        """
        return self.remember(self.look(features), features, frame_mask, hazards)

    def look(self, features: Tensor) -> FrameLook:
        """Look at each frame for itself: (..., R, D) features of any number of frames.

        What is the same in every window that holds a frame; :meth:`remember` makes the memory of
        windows from it.
        """
        values = self.value_norm(torch.relu(self.value(self.seen(features))))
        keys = values[..., :0] if self.key is None else self.key(values)
        none = features[..., :0]
        concepts = ConceptLook(none, none, none[..., 0, :])
        if self.concepts is not None:
            concepts = self.concepts.look(self.seen(features))
        most = mean = none[..., 0, :]
        if self.readout is not None:
            evidence = self.evidence(features)
            most, mean = evidence.amax(-2), evidence.mean(-2)
        return FrameLook(values, keys, *concepts, most, mean)

    def remember(
        self, look: FrameLook, features: Tensor, frame_mask: Tensor, hazards: Tensor | None = None
    ) -> Memory:
        """Like :meth:`memory`, from what was seen of the windows' (N, T) frames already."""
        count, frames, regions, _ = features.shape
        time = self.time(frames)
        values = (look.values + time[:, None]).view(count, frames * regions, -1)
        keys = look.keys if self.key is None else look.keys + self.key(time)[:, None]
        keys = keys.view(count, frames * regions, -1)
        mask = frame_mask.unsqueeze(-1).expand(count, frames, regions).reshape(count, -1)
        share = mask.to(values.dtype) / mask.sum(1, keepdim=True)
        pooled = torch.bmm(share.unsqueeze(1), values).squeeze(1)
        concepts, condition = self._condition(look, features, frame_mask, hazards)
        if self.latent is not None:
            condition = condition + self.latent.word(self.latent.prior(pooled).mean)
        return Memory(values, keys, mask, pooled, concepts, condition)

    def seen(self, features: Tensor) -> Tensor:
        """Features (..., D) that captions and concepts are made of, without the evidence."""
        return features[..., : self.config.feature_size]

    def evidence(self, features: Tensor) -> Tensor:
        """Features (..., E) that the read-out reads: those behind the others, or the others."""
        config = self.config
        return features[..., config.feature_size :] if config.evidence_size else features

    def hazards(self, features: Tensor, frame_mask: Tensor) -> Tensor:
        """Probability of each hazard, (N, H), by the read-out.

        Raises:
            ValueError: The model has no read-out.

        """
        if self.readout is None:
            raise ValueError("the model has no hazard read-out")
        probabilities: Tensor = self.readout(self.evidence(features), frame_mask)
        return probabilities

    def _condition(
        self, look: FrameLook, features: Tensor, frame_mask: Tensor, hazards: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Concept probabilities (N, W), and what they add to each word read (N, E).

        Hazards come first, from the read-out where there is one. The decoder learns to use the
        probabilities and never to bend them: no gradient flows back, so that they stay
        probabilities.
        """
        if self.concepts is None:
            none = features.new_zeros((len(features), 0))
            return none, features.new_zeros((len(features), self.config.word_size))
        concepts = head = self.concepts.judge(look.concepts, frame_mask)
        if hazards is None and self.readout is not None:
            hazards = self.readout.judge(self.evidence(features), look.most, look.mean, frame_mask)
        if hazards is not None:
            concepts = torch.cat((hazards.to(head.dtype), head[:, hazards.shape[1] :]), 1)
        read = concepts if self.config.hazards_condition else head
        return concepts, self.condition(self.concept_dropout(read.detach()))

    def with_latents(self, memory: Memory, latents: Tensor) -> Memory:
        """Memory of N * S clips, each of N with each of its latents (N, S, Z).

        Raises:
            ValueError: The model has no latent.

        """
        if self.latent is None:
            raise ValueError("the model has no latent to draw: its latent_size is 0")
        samples = latents.shape[1]
        wide = Memory(*(part.repeat_interleave(samples, 0) for part in memory))
        moved = latents - self.latent.prior(memory.pooled).mean.unsqueeze(1)
        return wide._replace(condition=wide.condition + self.latent.word(moved.flatten(0, 1)))

    def sample_latents(self, memory: Memory, samples: int, seed: int) -> Memory:
        """Memory of N * samples clips with latents drawn from the prior; see with_latents."""
        if self.latent is None:
            raise ValueError("the model has no latent to draw: its latent_size is 0")
        return self.with_latents(memory, self.latent.draw(memory.pooled, samples, seed))

    def initial_state(self, memory: Memory) -> DecoderState:
        """State before the first word, one row per clip (N, H)."""
        size = self.config.hidden_size
        start = torch.tanh(self.start(memory.pooled))
        hidden, cell = start[:, :size], start[:, size:]
        return DecoderState(hidden.contiguous(), cell.contiguous(), memory.values[:, :, 0] * 0.0)

    def step(
        self, tokens: Tensor, state: DecoderState, memory: Memory
    ) -> tuple[Tensor, DecoderState]:
        """One word on: (rows,) tokens and a state of N * K rows to (rows, V) logits."""
        rows, clips = tokens.shape[0], memory.values.shape[0]
        word = self._read(tokens.view(clips, rows // clips), memory).view(rows, -1)
        context, state = self._move(word, state, memory)
        return self.output(self._speak(word, state.hidden, context)), state

    def forward(self, memory: Memory, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher forcing over (N, K, L) tokens that begin with <begin>.

        Only what depends on the state before goes step by step.

        Returns:
            Logits (N, K, L - 1, V) for the next word, and attention (N, K, L - 1, P).

        """
        clips, captions, length = tokens.shape
        state = _repeat(self.initial_state(memory), captions)
        words = self._read(tokens[:, :, :-1].flatten(1), memory)
        words = words.view(clips * captions, length - 1, -1)
        hidden, contexts, attention = [], [], []
        for word in words.unbind(1):
            context, state = self._move(word, state, memory)
            hidden.append(state.hidden)
            contexts.append(context)
            attention.append(state.attention)
        mixed = self._speak(words, torch.stack(hidden, 1), torch.stack(contexts, 1))
        shape = (clips, captions, length - 1, -1)
        logits: Tensor = self.output(mixed)
        return logits.view(shape), torch.stack(attention, 1).view(shape)

    def _read(self, tokens: Tensor, memory: Memory) -> Tensor:
        """What the cell reads of (N, M) tokens of each clip, (N, M, E)."""
        read: Tensor = self.dropout(self.words(tokens) + memory.condition.unsqueeze(1))
        return read

    def _move(
        self, word: Tensor, state: DecoderState, memory: Memory
    ) -> tuple[Tensor, DecoderState]:
        """One step of the recurrence: context (rows, C) and the next state, from (rows, E)."""
        rows, clips = word.shape[0], memory.values.shape[0]
        beams = rows // clips
        hidden = state.hidden.view(clips, beams, -1)
        seen, weights = self.attention(hidden, memory)
        inputs = word
        if self.attention.input_size:
            inputs = torch.cat((word, seen.flatten(0, 1)), -1)
        new_hidden, new_cell = self.cell.advance(inputs, state.hidden, state.cell)
        parts = (inputs, state.hidden, new_hidden, new_cell)
        moved = CellStep(*(part.view(clips, beams, part.shape[-1]) for part in parts))
        context, weights = self.attention.after(moved, seen, weights, memory)
        return context.flatten(0, 1), DecoderState(new_hidden, new_cell, weights.flatten(0, 1))

    def _speak(self, word: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        """What the output layer reads, (..., H), from the word read and what came of it."""
        mixed: Tensor = self.dropout(hidden)
        if self.context_out is not None:
            mixed = mixed + self.context_out(context)
        spoken: Tensor = self.dropout(torch.tanh(mixed + self.word_out(word)))
        return spoken


def _repeat(state: DecoderState, times: int) -> DecoderState:
    return DecoderState(*(part.repeat_interleave(times, 0) for part in state))
