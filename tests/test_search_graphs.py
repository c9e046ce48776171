"""Recorded searches find what the search finds, whatever was searched with them before."""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_runtimes import rerun

from models.hypotheses import Hypothesis
from models.runtimes.search_graphs import SearchGraphs
from models.search import SearchConfig, search

BEGIN, END, WORDS = 0, 1, 9


class Hidden(NamedTuple):
    hidden: torch.Tensor


class Picture(NamedTuple):
    bias: torch.Tensor


class Toy:
    """Scores depend on the picture and on the whole prefix; an end grows likelier with time."""

    def __init__(self, seed: int) -> None:
        make = torch.Generator().manual_seed(seed)
        self.mix = torch.randn(5, 5, generator=make)
        self.embed = torch.randn(WORDS, 5, generator=make)
        self.out = torch.randn(5, WORDS, generator=make) * 2
        self.end_bias = float(torch.rand((), generator=make)) * 4 - 1

    def step(
        self, tokens: torch.Tensor, state: Hidden, memory: Picture
    ) -> tuple[torch.Tensor, Hidden]:
        hidden = torch.tanh(state.hidden @ self.mix + self.embed[tokens])
        of_picture = memory.bias.repeat_interleave(len(tokens) // len(memory.bias), 0)
        scores = hidden @ self.out + of_picture
        scores[:, END] += self.end_bias
        return scores, Hidden(hidden)


def pictures(count: int, seed: int) -> tuple[Hidden, Picture]:
    make = torch.Generator().manual_seed(seed)
    bias = torch.randn(count, WORDS, generator=make) * 2
    return Hidden(torch.randn(count, 5, generator=make)), Picture(bias)


def trace(state: Hidden) -> torch.Tensor:
    return state.hidden


def assert_same(found: list[list[Hypothesis]], expected: list[list[Hypothesis]]) -> None:
    assert [[h.tokens for h in own] for own in found] == [
        [h.tokens for h in own] for own in expected
    ]
    for mine, theirs in zip(chain(*found), chain(*expected), strict=True):
        assert mine.finished == theirs.finished
        assert abs(mine.log_probability - theirs.log_probability) < 1e-4
        assert len(mine.word_log_probs) == len(theirs.word_log_probs)
        if theirs.trace is None:
            assert mine.trace is None
        else:
            torch.testing.assert_close(mine.trace, theirs.trace, rtol=0, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    beam=st.sampled_from([1, 3, 5]),
    length=st.integers(1, 11),
    alpha=st.sampled_from([-0.5, 0.0, 0.7]),
    block=st.sampled_from([0, 2]),
    check_every=st.sampled_from([1, 3, 4]),
    calls=st.lists(
        st.tuples(st.integers(1, 6), st.sets(st.integers(2, WORDS - 1), max_size=3)),
        min_size=1,
        max_size=4,
    ),
)
def test_recorded_searches_find_the_same_call_after_call(
    seed: int,
    beam: int,
    length: int,
    alpha: float,
    block: int,
    check_every: int,
    calls: list[tuple[int, set[int]]],
):
    toy = Toy(seed)
    graphs = SearchGraphs(toy.step, rerun)
    for number, (images, forbidden) in enumerate(calls):
        state, memory = pictures(images, seed + number)
        config = SearchConfig(
            BEGIN,
            END,
            beam,
            n_best=(1 + number % 2) * beam,
            max_length=length,
            length_penalty=alpha,
            block_ngrams=block,
            forbidden=tuple(sorted(forbidden)),
            check_every=check_every,
        )

        def one_word(
            tokens: torch.Tensor, hidden: Hidden, memory: Picture = memory
        ) -> tuple[torch.Tensor, Hidden]:
            return toy.step(tokens, hidden, memory)

        expected = search(one_word, state, config, trace=trace)
        with torch.inference_mode():
            assert_same(graphs(state, memory, config, trace), expected)


def test_nothing_to_search_gives_nothing():
    state, memory = pictures(0, 1)
    assert SearchGraphs(Toy(1).step, rerun)(state, memory, SearchConfig(BEGIN, END), None) == []
