"""The batched search against a slow, obvious one, exhaustive enumeration and bad scores."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.search import Hypothesis, SearchConfig, search

BEGIN, END = 0, 1


class Chain(NamedTuple):
    image: torch.Tensor
    hidden: torch.Tensor


class ToyModel:
    """A recurrent toy whose scores depend on the image and on the whole prefix."""

    def __init__(self, seed: int, words: int, images: int, end_bias: float = 0.0) -> None:
        make = torch.Generator().manual_seed(seed)
        self.mix = torch.randn(5, 5, generator=make, dtype=torch.float64)
        self.embed = torch.randn(words, 5, generator=make, dtype=torch.float64)
        self.out = torch.randn(5, words, generator=make, dtype=torch.float64) * 2
        self.start = torch.randn(images, 5, generator=make, dtype=torch.float64)
        self.bias = torch.zeros(words, dtype=torch.float64)
        self.bias[END] = end_bias

    def state(self, images: slice = slice(None)) -> Chain:
        start = self.start[images]
        return Chain(torch.arange(len(self.start))[images], start)

    def __call__(self, tokens: torch.Tensor, state: Chain) -> tuple[torch.Tensor, Chain]:
        hidden = torch.tanh(state.hidden @ self.mix + self.embed[tokens])
        return (hidden @ self.out + self.bias).float(), Chain(state.image, hidden)


def penalty(length: int, alpha: float) -> float:
    return ((5 + length) / 6) ** alpha


def repeats_ngram(tokens: tuple[int, ...], size: int) -> bool:
    grams = [tokens[i : i + size] for i in range(len(tokens) - size + 1)]
    return size > 0 and len(grams) != len(set(grams))


def word_log_probs(model: ToyModel, image: int, prefix: tuple[int, ...]) -> list[float]:
    state = model.state(slice(image, image + 1))
    scores = torch.empty(0)
    for token in (BEGIN, *prefix):
        scores, state = model(torch.tensor([token]), state)
    return scores[0].log_softmax(-1).tolist()


def extensions(
    model: ToyModel, image: int, prefix: tuple[int, ...], total: float, config: SearchConfig
) -> list[tuple[float, tuple[int, ...]]]:
    found = []
    for word, log_prob in enumerate(word_log_probs(model, image, prefix)):
        new = (*prefix, word)
        early = word == END and len(new) < config.min_length
        repeated = word != END and repeats_ngram(new, config.block_ngrams)
        if not (early or repeated or word in config.forbidden):
            found.append((total + log_prob, new))
    return found


def reference(model: ToyModel, image: int, config: SearchConfig) -> list[tuple[int, ...]]:
    """Beam search with lists, no early end: all the steps, then the best of the finished."""
    live, finished = [(0.0, ())], []
    for t in range(config.max_length):
        grown = [e for total, p in live for e in extensions(model, image, p, total, config)]
        if not grown:
            break
        grown.sort(key=lambda entry: -entry[0])
        for total, prefix in grown[: config.beam_size]:
            if prefix[-1] == END:
                finished.append((total / penalty(t + 1, config.length_penalty), prefix))
        live = [e for e in grown if e[1][-1] != END][: config.beam_size]
        if not live:
            break
    finished.sort(key=lambda entry: -entry[0])
    whole = [prefix[:-1] for _, prefix in finished]
    return (whole + [prefix for _, prefix in live])[: config.n_best]


def tokens_of(results: list[list[Hypothesis]]) -> list[list[tuple[int, ...]]]:
    return [[h.tokens for h in hypotheses] for hypotheses in results]


configs = st.builds(
    SearchConfig,
    begin=st.just(BEGIN),
    end=st.just(END),
    beam_size=st.sampled_from([1, 3, 5, 10]),
    min_length=st.integers(0, 4),
    max_length=st.integers(1, 8),
    length_penalty=st.sampled_from([-0.5, 0.0, 0.6, 1.0, 2.0]),
    block_ngrams=st.sampled_from([0, 1, 2, 3]),
    forbidden=st.sampled_from([(), (0,), (0, 3)]),
    check_every=st.sampled_from([1, 3]),
)


@settings(max_examples=60, deadline=None)
@given(config=configs, seed=st.integers(0, 10_000), end_bias=st.sampled_from([-3.0, 0.0, 3.0]))
def test_best_equals_reference(config: SearchConfig, seed: int, end_bias: float) -> None:
    model = ToyModel(seed, words=13, images=3, end_bias=end_bias)
    found = tokens_of(search(model, model.state(), config))
    assert found == [reference(model, image, config) for image in range(3)]


@settings(max_examples=60, deadline=None)
@given(config=configs, seed=st.integers(0, 10_000), end_bias=st.sampled_from([-3.0, 0.0, 3.0]))
def test_twice_as_many_as_the_beam_is_wide_equal_the_reference_alone_and_in_a_batch(
    config: SearchConfig, seed: int, end_bias: float
) -> None:
    config = replace(config, n_best=2 * config.beam_size)
    model = ToyModel(seed, words=13, images=3, end_bias=end_bias)
    found = tokens_of(search(model, model.state(), config))
    assert found == [reference(model, image, config) for image in range(3)]
    alone = [search(model, model.state(slice(i, i + 1)), config) for i in range(3)]
    assert found == [tokens_of(one)[0] for one in alone]


@settings(max_examples=40, deadline=None)
@given(config=configs, seed=st.integers(0, 10_000))
def test_batch_equals_single_images(config: SearchConfig, seed: int) -> None:
    model = ToyModel(seed, words=11, images=4)
    batch = tokens_of(search(model, model.state(), config))
    alone = [search(model, model.state(slice(i, i + 1)), config) for i in range(4)]
    assert batch == [tokens_of(one)[0] for one in alone]


@pytest.mark.parametrize("words", [768, 773])
@pytest.mark.parametrize("beam_size", [1, 5])
def test_looking_in_blocks_of_words_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, words: int, beam_size: int
) -> None:
    monkeypatch.setattr("models.search._WORTH_BLOCKS", 0)
    config = SearchConfig(BEGIN, END, beam_size, n_best=beam_size, max_length=4)
    model = ToyModel(1, words, images=3)
    found = tokens_of(search(model, model.state(), config))
    assert found == [reference(model, image, config) for image in range(3)]
    few = {0, 63, 64, 700, words - 1}  # the last lies behind the last whole block, if there is such
    rare = SearchConfig(
        BEGIN, END, 5, n_best=5, max_length=1, forbidden=(*set(range(words)) - few,)
    )
    found = tokens_of(search(model, model.state(), rare))
    assert found == [reference(model, image, rare) for image in range(3)]


class BoundStep:
    """A step that remembers something of each image, as a decoder remembers its features."""

    def __init__(self, model: ToyModel) -> None:
        self.model = model
        self.bound = model.start.clone()
        self.sizes: list[int] = []

    def __call__(self, tokens: torch.Tensor, state: Chain) -> tuple[torch.Tensor, Chain]:
        beams = len(tokens) // len(self.bound)
        scores, state = self.model(tokens, state)
        self.sizes.append(len(self.bound))
        push = (self.bound @ self.model.out).repeat_interleave(beams, 0)
        return (scores + push).float(), state


class LeavableStep(BoundStep):
    def keep(self, images: torch.Tensor) -> None:
        self.bound = self.bound[images]


@settings(max_examples=60, deadline=None)
@given(config=configs, seed=st.integers(0, 10_000), end_bias=st.sampled_from([-1.0, 1.0, 3.0]))
def test_leaving_the_batch_changes_nothing(
    config: SearchConfig, seed: int, end_bias: float
) -> None:
    model = ToyModel(seed, words=11, images=7, end_bias=end_bias)
    staying, leaving = BoundStep(model), LeavableStep(model)
    expected = search(staying, model.state(), config, (), lambda state: state.hidden)
    found = search(leaving, model.state(), config, (), lambda state: state.hidden)
    assert tokens_of(found) == tokens_of(expected)
    for mine, theirs in zip(found, expected, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert a.word_log_probs == pytest.approx(b.word_log_probs, abs=1e-4)
            assert (a.trace is None) == (b.trace is None)
            if a.trace is not None and b.trace is not None:
                assert torch.allclose(a.trace, b.trace)


def test_finished_images_leave_the_batch() -> None:
    model = ToyModel(2, words=11, images=12, end_bias=1.0)
    step = LeavableStep(model)
    search(step, model.state(), SearchConfig(BEGIN, END, 3, max_length=30, check_every=2))
    assert step.sizes[0] == 12
    assert step.sizes[-1] == 9  # three end at once, the others cannot be sure before max_length
    assert step.sizes == sorted(step.sizes, reverse=True)


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("seed", range(4))
def test_wide_beam_equals_enumeration(alpha: float, seed: int) -> None:
    model, longest = ToyModel(seed, words=4, images=1), 4
    config = SearchConfig(BEGIN, END, 256, 5, max_length=longest, length_penalty=alpha)
    scored = []
    for length in range(longest):
        for words in itertools.product([0, 2, 3], repeat=length):
            steps = [word_log_probs(model, 0, words[:i])[w] for i, w in enumerate(words)]
            total = sum(steps) + word_log_probs(model, 0, words)[END]
            scored.append((total / penalty(length + 1, alpha), words))
    best = sorted(scored, reverse=True)[:5]
    found = search(model, model.state(), config)[0]
    assert [h.tokens for h in found] == [words for _, words in best]
    assert [h.score for h in found] == pytest.approx([s for s, _ in best], abs=1e-4)


def test_words_and_trace_belong_to_their_path() -> None:
    model = ToyModel(7, words=9, images=3)
    config = SearchConfig(BEGIN, END, 5, 3, max_length=6)
    for image, found in enumerate(search(model, model.state(), config, (), lambda s: s.hidden)):
        for h in found:
            state = model.state(slice(image, image + 1))
            ends = (END,) if h.finished else ()
            given_tokens = (BEGIN, *h.tokens, *ends)
            for t, (token, word) in enumerate(itertools.pairwise(given_tokens)):
                scores, state = model(torch.tensor([token]), state)
                expected = float(scores[0].log_softmax(-1)[word])
                assert h.word_log_probs[t] == pytest.approx(expected, abs=1e-4)
                if t < len(h.tokens):
                    assert h.trace is not None
                    assert torch.allclose(h.trace[t], state.hidden[0])
            assert sum(h.word_log_probs) == pytest.approx(h.log_probability, abs=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("bad_step", [0, 3])
@pytest.mark.parametrize("block_ngrams", [0, 2])
def test_bad_scores_hurt_only_their_image(bad: float, bad_step: int, block_ngrams: int) -> None:
    model = ToyModel(3, words=9, images=2, end_bias=-50.0)
    calls = itertools.count()

    def step(tokens: torch.Tensor, state: Chain) -> tuple[torch.Tensor, Chain]:
        scores, state = model(tokens, state)
        if next(calls) == bad_step:
            scores[state.image == 0, 4] = bad
        return scores, state

    config = SearchConfig(BEGIN, END, 3, max_length=6, block_ngrams=block_ngrams)
    hurt, well = search(step, model.state(), config)
    assert len(hurt[0].tokens) == bad_step
    assert not hurt[0].finished
    assert math.isfinite(hurt[0].log_probability)
    assert [well[0].tokens] == reference(model, 1, config)


def test_no_end_gives_the_best_prefix_flagged() -> None:
    model = ToyModel(5, words=9, images=2)
    config = SearchConfig(BEGIN, END, 3, min_length=7, max_length=6)
    for image, (best,) in enumerate(search(model, model.state(), config)):
        assert not best.finished
        assert [best.tokens] == reference(model, image, config)
        assert len(best.word_log_probs) == len(best.tokens) == 6


def test_no_images_give_no_hypotheses() -> None:
    model = ToyModel(5, words=9, images=2)
    assert search(model, model.state(slice(0, 0)), SearchConfig(BEGIN, END)) == []


@pytest.mark.parametrize("wrong", [{"beam_size": 0}, {"n_best": 7}, {"block_ngrams": -1}])
def test_wrong_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        SearchConfig(BEGIN, END, **wrong)
