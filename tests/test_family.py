"""The family of decoders: every kind learns, is served as it is trained, and keeps to one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch.nn import functional as F

from models.cells import CELLS
from models.decoders import Decoder, DecoderConfig, DecoderState
from models.fusion import FUSIONS, Memory
from models.runtimes.cuda_graph import CudaGraphEngine
from models.runtimes.engine import EagerEngine, Engine
from models.runtimes.openvino import OpenVinoEngine
from models.search import SearchConfig, search
from models.training.variational import kl_weight, variational_loss
from models.vocabulary import BEGIN, END, PAD

VOCABULARY, FEATURES, SIDE = 12, 6, 64
CAPTIONS = ((5, 6, 7), (8, 9), (5, 9, 10, 6), (11, 6, 7, 8))
CPU = torch.device("cpu")

kinds = pytest.mark.parametrize(
    ("cell", "attention", "gate"),
    [
        *((cell, "additive", True) for cell in CELLS),
        *(("lstm", fusion, True) for fusion in FUSIONS if fusion != "additive"),
        ("gru", "adaptive", True),
        ("gru", "dot", False),
    ],
)


def build(cell: str, attention: str, gate: bool = True) -> Decoder:
    torch.manual_seed(0)
    config = DecoderConfig(
        VOCABULARY, FEATURES, 16, 32, 24, 12, dropout=0.0, attention=attention, cell=cell, gate=gate
    )
    return Decoder(config)


def clips(frames: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    mask = torch.ones(len(CAPTIONS), frames, dtype=torch.bool)
    mask[1, : frames - 1] = False
    return torch.randn(len(CAPTIONS), frames, 4, FEATURES), mask


def captions() -> torch.Tensor:
    tokens = torch.full((len(CAPTIONS), 1, 6), PAD)
    for row, words in enumerate(CAPTIONS):
        tokens[row, 0, : len(words) + 2] = torch.tensor([BEGIN, *words, END])
    return tokens


def loss_of(decoder: Decoder, memory: Memory, tokens: torch.Tensor) -> torch.Tensor:
    logits, _ = decoder(memory, tokens)
    return F.cross_entropy(logits.flatten(0, 2), tokens[:, :, 1:].flatten(), ignore_index=PAD)


def said(decoder: Decoder, engine: Engine | None = None) -> list[tuple[int, ...]]:
    memory = decoder.eval().memory(*clips())
    step = (engine or EagerEngine(torch.nn.Identity(), decoder)).stepper(memory)
    config = SearchConfig(BEGIN, END, 3, forbidden=(PAD, BEGIN), max_length=6)
    return [found[0].tokens for found in search(step, decoder.initial_state(memory), config)]


@kinds
def test_every_kind_learns_a_tiny_set_by_heart(cell: str, attention: str, gate: bool) -> None:
    decoder = build(cell, attention, gate)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-2)
    features, mask = clips()
    tokens = captions()
    for _ in range(150):
        loss = loss_of(decoder, decoder.memory(features, mask), tokens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert said(decoder) == list(CAPTIONS)


@kinds
def test_the_loss_reaches_every_parameter(cell: str, attention: str, gate: bool) -> None:
    decoder = build(cell, attention, gate)
    for _ in range(8):  # hard attention looks elsewhere each time
        loss_of(decoder, decoder.memory(*clips(frames=5)), captions()).backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@kinds
def test_clips_of_a_batch_and_beams_do_not_meet(cell: str, attention: str, gate: bool) -> None:
    decoder = build(cell, attention, gate).eval()
    memory = decoder.memory(*clips())
    tokens = torch.arange(len(CAPTIONS) * 2) % VOCABULARY
    with torch.inference_mode():
        first = decoder.initial_state(memory)
        state = DecoderState(*(part.repeat_interleave(2, 0) for part in first))
        _, state = decoder.step(tokens, state, memory)
        logits, state = decoder.step(tokens.flip(0), state, memory)
        for row in range(len(tokens)):
            own = Memory(*(part[row // 2 : row // 2 + 1] for part in memory))
            _, alone = decoder.step(tokens[row : row + 1], decoder.initial_state(own), own)
            expected, alone = decoder.step(tokens.flip(0)[row : row + 1], alone, own)
            torch.testing.assert_close(logits[row : row + 1], expected)
            for part, theirs in zip(state, alone, strict=True):
                torch.testing.assert_close(part[row : row + 1], theirs)


@kinds
def test_frames_that_do_not_exist_are_not_seen(cell: str, attention: str, gate: bool) -> None:
    decoder = build(cell, attention, gate).eval()
    features, _ = clips(frames=1)
    one = torch.ones(len(features), 1, dtype=torch.bool)
    padded = torch.cat((torch.randn(len(features), 2, 4, FEATURES), features), 1)
    mask = torch.tensor([[False, False, True]]).expand(len(features), 3)
    with torch.inference_mode():
        expected, _ = decoder(decoder.memory(features, one), captions())
        logits, attention_weights = decoder(decoder.memory(padded, mask), captions())
    torch.testing.assert_close(logits, expected)
    assert attention_weights[..., :8].abs().max() == 0


def rerun(
    function: Callable[..., Sequence[torch.Tensor]], buffers: Sequence[torch.Tensor]
) -> tuple[Callable[[], None], Sequence[torch.Tensor]]:
    """What a CUDA graph does, without one."""
    outputs = [output.clone() for output in function(*buffers)]

    def replay() -> None:
        for output, new in zip(outputs, function(*buffers), strict=True):
            output.copy_(new)

    return replay, outputs


class _NoEncoder(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float().flatten(2).transpose(1, 2)


def openvino(decoder: Decoder) -> Engine:
    return OpenVinoEngine(_NoEncoder().eval(), decoder.eval(), SIDE)


def replaying(decoder: Decoder) -> Engine:
    return CudaGraphEngine(_NoEncoder(), decoder.eval(), CPU, rerun, torch.float32)


@pytest.mark.parametrize("engine", [openvino, replaying])
@kinds
def test_every_kind_runs_the_same_on_every_runtime(
    engine: Callable[[Decoder], Engine], cell: str, attention: str, gate: bool
) -> None:
    decoder = build(cell, attention, gate)
    for parameter in decoder.parameters():
        parameter.data.mul_(2.0)  # fresh from its initialisation it would say the same of all
    assert said(decoder, engine(decoder)) == said(decoder)


def test_hard_attention_samples_in_training_and_takes_the_likeliest_when_serving() -> None:
    decoder = build("lstm", "hard")
    memory = decoder.memory(*clips())
    hidden = torch.randn(len(CAPTIONS), 2, 32)
    draws = {tuple(decoder.attention(hidden, memory)[1].argmax(-1).flatten().tolist())}
    for _ in range(20):
        draws.add(tuple(decoder.attention(hidden, memory)[1].argmax(-1).flatten().tolist()))
    assert len(draws) > 1
    decoder.eval()
    first, again = (decoder.attention(hidden, memory)[1] for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(first.amax(-1), torch.ones(len(CAPTIONS), 2))
    assert torch.equal(first.sum(-1), torch.ones(len(CAPTIONS), 2))


def test_adaptive_attention_looks_less_where_the_sentinel_speaks() -> None:
    decoder = build("lstm", "adaptive").eval()
    _, weights = decoder(decoder.memory(*clips()), captions())
    looked = weights.sum(-1)
    assert ((looked > 0) & (looked < 1)).all()


@pytest.mark.parametrize("wrong", [{"cell": "lsmt"}, {"attention": "sof"}])
def test_an_unknown_kind_names_the_known_ones(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="there are"):
        Decoder(DecoderConfig(VOCABULARY, FEATURES, **wrong))


# The latent


def variational(latent_size: int = 8) -> Decoder:
    torch.manual_seed(0)
    sizes = (VOCABULARY, FEATURES, 16, 32, 24, 12)
    return Decoder(DecoderConfig(*sizes, dropout=0.0, latent_size=latent_size))


def two_captions_each() -> torch.Tensor:
    return torch.cat((captions(), captions().roll(1, 0)), 1)


def test_the_bound_reaches_every_parameter() -> None:
    decoder = variational()
    loss, divergence = variational_loss(
        decoder, decoder.memory(*clips()), two_captions_each(), 0.1, 0.5
    )
    loss.backward()
    assert divergence > 0
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_latents_draw_the_captions_that_a_clip_was_given() -> None:
    """Two captions a clip, equally true: the latent learns which, the prior draws both."""
    decoder = variational()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-2)
    features, mask = clips()
    tokens = two_captions_each()
    for step in range(200):
        weight = kl_weight(step / 100, 1.0, 0.5)
        memory = decoder.memory(features, mask)
        loss, _ = variational_loss(decoder, memory, tokens, 0.0, weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    drawn = decoder.eval().sample_latents(decoder.memory(features, mask), 12, seed=0)
    step = EagerEngine(torch.nn.Identity(), decoder).stepper(drawn)
    config = SearchConfig(BEGIN, END, 1, forbidden=(PAD, BEGIN), max_length=6)
    found = [f[0].tokens for f in search(step, decoder.initial_state(drawn), config)]
    for clip, own in enumerate(CAPTIONS):
        mine = set(found[clip * 12 : clip * 12 + 12])
        assert {own, CAPTIONS[clip - 1]} <= mine


def test_a_latent_at_its_prior_mean_changes_nothing() -> None:
    decoder = variational().eval()
    memory = decoder.memory(*clips())
    assert decoder.latent is not None
    same = decoder.with_latents(memory, decoder.latent.prior(memory.pooled).mean.unsqueeze(1))
    for mine, expected in zip(same, memory, strict=True):
        torch.testing.assert_close(mine, expected)


def test_the_weight_of_the_divergence_rises_and_stays() -> None:
    weights = [kl_weight(epoch, 4.0, 0.8) for epoch in range(8)]
    assert weights[0] == 0.0
    assert weights == sorted(weights)
    assert weights[4:] == [0.8] * 4
    assert kl_weight(0.0, 0.0, 0.8) == 0.8


def test_a_model_without_a_latent_says_so() -> None:
    decoder = build("lstm", "dot").eval()
    with pytest.raises(ValueError, match="no latent"):
        decoder.sample_latents(decoder.memory(*clips()), 2, 0)
