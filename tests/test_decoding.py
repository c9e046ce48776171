"""Decoding options: each against an obvious search or its definition, and through the captioner."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_captioner import told_one_by_one

from models import Decoding
from models.captioner import Captioner
from models.consensus import consensus_order
from models.decoders import Decoder, DecoderConfig
from models.encoders import build_encoder
from models.guided_search import constrained_search, diverse_search
from models.hypotheses import length_penalty
from models.sampling import NucleusSampling
from models.search import SearchConfig, search
from models.vocabulary import Vocabulary

BEGIN, END, VOCABULARY = 0, 1, 6
WORDS = ["<pad>", "<begin>", "<end>", "<unknown>", "a", "man", "dog", "runs", "sits", "here", "fat"]


class Chain(NamedTuple):
    hidden: torch.Tensor


class ToyModel:
    """A recurrent toy whose scores depend on the image and on the whole prefix."""

    def __init__(self, seed: int, images: int) -> None:
        make = torch.Generator().manual_seed(seed)
        self.mix, self.embed, self.out, self.start = (
            torch.randn(shape, generator=make, dtype=torch.float64)
            for shape in ((5, 5), (VOCABULARY, 5), (5, VOCABULARY), (images, 5))
        )

    def state(self, images: slice = slice(None)) -> Chain:
        return Chain(self.start[images])

    def __call__(self, tokens: torch.Tensor, state: Chain) -> tuple[torch.Tensor, Chain]:
        hidden = torch.tanh(state.hidden @ self.mix + self.embed[tokens])
        return (2 * hidden @ self.out).float(), Chain(hidden)

    def log_probability(self, image: int, tokens: tuple[int, ...]) -> float:
        state, total = self.state(slice(image, image + 1)), 0.0
        for word, following in itertools.pairwise((BEGIN, *tokens)):
            scores, state = self(torch.tensor([word]), state)
            total += float(scores[0].log_softmax(-1)[following])
        return total


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    forced=st.sampled_from([[[2]], [[2], [3]], [[2, 4], [3]], [[2, 3], [3, 5]]]),
    alpha=st.sampled_from([0.0, 0.7]),
)
def test_forced_words_equal_enumeration(seed: int, forced: list[list[int]], alpha: float) -> None:
    model, longest = ToyModel(seed, images=2), 4
    config = SearchConfig(BEGIN, END, 700, 2, max_length=longest + 1, length_penalty=alpha)
    found = constrained_search(model, model.state(), config, forced)
    for image, best in enumerate(found):
        scored = []
        for length in range(longest + 1):
            for words in itertools.product([0, 2, 3, 4, 5], repeat=length):
                if all(set(words) & set(forms) for forms in forced):
                    total = model.log_probability(image, (*words, END))
                    scored.append((total / length_penalty(length + 1, alpha), words))
        expected = sorted(scored, reverse=True)[:2]
        assert [h.tokens for h in best] == [words for _, words in expected]
        assert [h.score for h in best] == pytest.approx([s for s, _ in expected], abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), beam=st.sampled_from([1, 3]), block=st.sampled_from([0, 2]))
def test_nothing_forced_is_plain_beam_search(seed: int, beam: int, block: int) -> None:
    model = ToyModel(seed, images=3)
    config = SearchConfig(BEGIN, END, beam, beam, 2, 7, 0.7, block, forbidden=(0,))
    plain = search(model, model.state(), config, (), lambda state: state.hidden)
    for guided in (
        constrained_search(model, model.state(), config, [], lambda state: state.hidden),
        diverse_search(model, model.state(), config, 1, 9.0, lambda state: state.hidden),
    ):
        for mine, expected in zip(guided, plain, strict=True):
            assert mine[0].tokens == expected[0].tokens
            assert mine[0].log_probability == pytest.approx(expected[0].log_probability, abs=1e-4)
            assert mine[0].trace is not None
            assert expected[0].trace is not None
            torch.testing.assert_close(mine[0].trace, expected[0].trace)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), beam=st.sampled_from([1, 2]))
def test_a_guided_batch_equals_its_images_one_by_one(seed: int, beam: int) -> None:
    model = ToyModel(seed, images=3)
    config = SearchConfig(BEGIN, END, 2 * beam, 2, max_length=6)
    together = constrained_search(model, model.state(), config, [[2], [4]])
    diverse = diverse_search(model, model.state(), config, 2, 1.0)
    for image in range(3):
        state = model.state(slice(image, image + 1))
        alone = constrained_search(model, state, config, [[2], [4]])[0]
        assert [h.tokens for h in alone] == [h.tokens for h in together[image]]
        alone = diverse_search(model, state, config, 2, 1.0)[0]
        assert [h.tokens for h in alone] == [h.tokens for h in diverse[image]]


def first_words(model: ToyModel, strength: float) -> set[int]:
    config = SearchConfig(BEGIN, END, 3, 3, 2, max_length=5, forbidden=(0,))
    found = diverse_search(model, model.state(), config, 3, strength)
    return {hypothesis.tokens[0] for hypothesis in found[0]}


def test_groups_keep_off_each_others_words_and_say_true_probabilities() -> None:
    for seed in range(10):
        model = ToyModel(seed, images=1)
        assert len(first_words(model, 0.0)) == 1
        assert len(first_words(model, 100.0)) == 3
        config = SearchConfig(BEGIN, END, 3, 3, max_length=5)
        for h in diverse_search(model, model.state(), config, 3, 1.5)[0]:
            tokens = (*h.tokens, END) if h.finished else h.tokens
            assert h.log_probability == pytest.approx(model.log_probability(0, tokens), abs=1e-4)


@pytest.mark.parametrize(
    ("forced", "config"),
    [
        ([[2]] * 5, SearchConfig(BEGIN, END)),
        ([[2], []], SearchConfig(BEGIN, END)),
        ([[2]], SearchConfig(BEGIN, END, forbidden=(2,))),
        ([[2], [3]], SearchConfig(BEGIN, END, max_length=2)),
    ],
)
def test_what_cannot_be_forced_is_refused(forced: list[list[int]], config: SearchConfig) -> None:
    model = ToyModel(0, images=1)
    with pytest.raises(ValueError, match="forced"):
        constrained_search(model, model.state(), config, forced)


def test_samples_follow_the_nucleus() -> None:
    probabilities = torch.tensor([0.05, 0.5, 0.3, 0.15])
    drawn: Counter[int] = Counter()
    history = torch.zeros((2000, 0), dtype=torch.int64)
    for seed in range(3):
        left = NucleusSampling(0.75, 1.0, 2000, seed)(probabilities.log().repeat(2000, 1), history)
        assert (left > -math.inf).sum(-1).eq(1).all()
        drawn.update(left.argmax(-1).tolist())
    assert set(drawn) == {1, 2}  # 0.5 alone is below 0.75
    assert drawn[1] / drawn.total() == pytest.approx(0.5 / 0.8, abs=0.03)
    chosen = left.amax(-1)
    assert torch.isclose(chosen.exp(), probabilities[left.argmax(-1)]).all()


def test_the_consensus_is_what_most_agree_with() -> None:
    captions = [(9, 8, 7), (1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3, 4, 6)]
    assert consensus_order(captions, [0.25] * 4)[0] == 1
    assert consensus_order(captions, [0.25] * 4)[-1] == 0
    assert consensus_order(captions, [0.97, 0.01, 0.01, 0.01])[0] == 0
    assert consensus_order([(), (1,)], [0.5, 0.5]) == [0, 1]


# Through the captioner


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    torch.manual_seed(3)
    encoder = build_encoder("test_efficientnet")
    decoder = Decoder(
        DecoderConfig(len(WORDS), encoder.feature_size, 16, 24, 20, 12, 4, latent_size=6)
    )
    for parameter in decoder.parameters():
        parameter.data.mul_(2.0)
    return Captioner(encoder, decoder, Vocabulary(WORDS), 64).eval()


def clips() -> list[np.ndarray]:
    random = np.random.default_rng(7)
    return [random.integers(0, 256, (frames, 48, 80, 3), np.uint8) for frames in (3, 1, 3)]


CHOICES = {
    "forced": Decoding(forced_words=("sits", ("man", "dog"))),
    "diverse": Decoding(diverse_groups=2),
    "nucleus": Decoding(top_p=0.9, samples=4, seed=3),
    "latents": Decoding(latent_samples=3),
    "consensus": Decoding(top_p=0.9, consensus="hypotheses"),
    "frames": Decoding(consensus="frames"),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_every_way_tells_a_batch_as_its_clips_one_by_one(captioner: Captioner, choice: str) -> None:
    told = told_one_by_one(captioner, clips(), CHOICES[choice])
    for clip, alone in zip(clips(), told, strict=True):
        assert len(alone.text.split()) >= 3
        texts = [alone.text, *(a.text for a in alone.alternatives)]
        assert not any({"fat", "<unknown>"} & set(text.split()) for text in texts)
        for word in alone.words:
            assert word.attention.shape == (len(clip), 2, 2)
            assert word.attention.sum() == pytest.approx(1, abs=1e-4)


def test_forced_words_are_said_and_forbidden_ones_are_not(captioner: Captioner) -> None:
    for hypothesis in captioner.caption(clips(), decoding=CHOICES["forced"]):
        for text in (hypothesis.text, *(other.text for other in hypothesis.alternatives)):
            assert "sits" in text.split()
            assert {"man", "dog"} & set(text.split())
    said = captioner.caption(clips())[0].text.split()[0]
    without = captioner.caption(clips(), decoding=Decoding(forbidden_words=(said,)))
    assert all(said not in hypothesis.text.split() for hypothesis in without)


def test_the_seed_fixes_what_is_drawn(captioner: Captioner) -> None:
    def draw(seed: int) -> list[str]:
        found = captioner.caption(clips(), decoding=Decoding(top_p=1.0, samples=6, seed=seed))
        return [h.text for h in found]

    assert draw(1) == draw(1)
    assert len({tuple(draw(seed)) for seed in range(4)}) > 1


def test_latents_draw_different_captions(captioner: Captioner) -> None:
    found = captioner.caption(clips(), 2, decoding=Decoding(latent_samples=8))
    assert any(len(hypothesis.alternatives) > 1 for hypothesis in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forced_words": ("dgo",)}, "nearest are dog"),
        ({"forced_words": ("fat",)}, "may not say fat"),
        ({"forced_words": ("dog",), "top_p": 0.9}, "choose one"),
        ({"diverse_groups": 2}, "do not divide"),
        ({"top_p": 0.0}, "top_p"),
        ({"consensus": "beams"}, "consensus is"),
        ({"samples": 0}, "1 or more"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    captioner: Captioner, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        captioner.caption(clips(), 3, decoding=Decoding(**options))
