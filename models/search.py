"""Greedy and beam search over a step function, for a whole batch at once; knows no model.

The search keeps `beam_size` live prefixes per image and a bank of the `beam_size` best finished
hypotheses. A step looks at the best `2 * beam_size` extensions of the live prefixes: an end
token among the first `beam_size` of them is a finished hypothesis, the best `beam_size` others
live on. An image is done when no live prefix can still beat its bank, so looking at that only
every few steps, or stopping later for the sake of another image, never changes a result.

Finished hypotheses are ranked by log P / lp, lp = ((5 + length) / 6) ** alpha, the length with
the end token (Wu et al. 2016, "Google's Neural Machine Translation System", eq. 14).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

State = TypeVar("State", bound="tuple[Tensor, ...]")
Step = Callable[[Tensor, State], "tuple[Tensor, State]"]
"""`step(tokens (rows,) int64, state) -> (scores (rows, V), state)`.

Scores are logits or log-probabilities (the search subtracts their logsumexp) in a tensor the
search may write to. Rows are N in the first call and N * beam_size, image-major, afterwards.
Whatever is the same for all beams of an image belongs to the step object, not to the state.
"""
Processor = Callable[[Tensor, Tensor], Tensor]
"""`processor(log_probs (rows, V), history (rows, t)) -> log_probs`; may only lower them."""

_DEAD = float("-inf")


@dataclass(frozen=True)
class SearchConfig:
    """How to search; lengths count decoding steps, the end token among them."""

    begin: int
    end: int
    beam_size: int = 3
    n_best: int = 1
    min_length: int = 0
    max_length: int = 20
    length_penalty: float = 0.0
    block_ngrams: int = 0
    forbidden: tuple[int, ...] = ()
    check_every: int = 4

    def __post_init__(self) -> None:
        """Raise ValueError for settings that cannot be searched with."""
        if self.beam_size < 1 or self.max_length < 1 or self.check_every < 1:
            raise ValueError("beam_size, max_length and check_every must be 1 or more")
        if not 1 <= self.n_best <= self.beam_size:
            raise ValueError(f"n_best must lie in 1..beam_size, not {self.n_best}")
        if min(self.min_length, self.block_ngrams) < 0:
            raise ValueError("min_length and block_ngrams must not be negative")


@dataclass(frozen=True)
class Hypothesis:
    """One caption: tokens without begin and end.

    `word_log_probs` holds one value per token and, when finished, one more for the end token.
    `score` is the length-normalised log-probability that ranks finished hypotheses.
    `trace` is (len(tokens), ...) on the CPU, what `trace` returned when each token was chosen.
    """

    tokens: tuple[int, ...]
    log_probability: float
    word_log_probs: tuple[float, ...]
    score: float
    finished: bool
    trace: Tensor | None = None


class _Bank(NamedTuple):
    """Best hypotheses of each image, all (N, K): rank score, log P, last step, slot before it."""

    score: Tensor
    log_prob: Tensor
    step: Tensor
    slot: Tensor


class _Paths(NamedTuple):
    """What each step chose, all (T, N, K): token, slot it extends, log P of the prefix."""

    token: Tensor
    parent: Tensor
    log_prob: Tensor


def search(
    step: Step[State],
    state: State,
    config: SearchConfig,
    processors: Sequence[Processor] = (),
    trace: Callable[[State], Tensor] | None = None,
) -> list[list[Hypothesis]]:
    """Return `n_best` hypotheses per image (fewer where fewer exist), best first.

    `state` is a NamedTuple of tensors, each with leading dimension N. An image without a
    finished hypothesis gives its best prefixes, `finished=False`; a row of scores that holds
    NaN or +inf kills its prefix only. `trace(new_state)` (rows, ...), say the attention
    weights, is kept for each word. Raises ValueError for a state without tensors.
    """
    if not state:
        raise ValueError("the state needs at least one tensor, to tell the batch size")
    with torch.inference_mode():
        return _Search(step, config, processors, trace).run(state)


def _length_penalty(length: int, alpha: float) -> float:
    return float(((5.0 + length) / 6.0) ** alpha)


def _reorder(state: State, rows: Tensor) -> State:
    return type(state)(*(part.index_select(0, rows) for part in state))


class NgramBlock:
    """Processor: no n-gram twice in one hypothesis (Paulus et al. 2017, section 2.5)."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, log_probs: Tensor, history: Tensor) -> Tensor:
        """Set to -inf the words that would repeat an n-gram of `history` (rows, t)."""
        if history.shape[1] < self.size:
            return log_probs
        grams = history.unfold(1, self.size, 1)
        tail = history[:, history.shape[1] - self.size + 1 :].unsqueeze(1)
        repeats = (grams[..., :-1] == tail).all(-1)
        limit = torch.full(repeats.shape, float("inf"), device=log_probs.device)
        limit = limit.masked_fill(repeats, _DEAD).to(log_probs.dtype)
        return log_probs.scatter_reduce(1, grams[..., -1], limit, "amin")


class _Search(Generic[State]):
    def __init__(
        self,
        step: Step[State],
        config: SearchConfig,
        processors: Sequence[Processor],
        trace: Callable[[State], Tensor] | None,
    ) -> None:
        self.step, self.config, self.trace = step, config, trace
        block = (NgramBlock(config.block_ngrams),) if config.block_ngrams else ()
        self.processors = (*block, *processors)
        self.traces: list[Tensor] = []

    def run(self, state: State) -> list[list[Hypothesis]]:
        config = self.config
        images, device, beam = state[0].shape[0], state[0].device, config.beam_size
        if not images:
            return []
        self.first_row = (torch.arange(images, device=device) * beam).unsqueeze(1)
        self.forbidden = torch.tensor(config.forbidden, dtype=torch.int64, device=device)
        shape = (config.max_length, images, beam)
        longs = torch.zeros(shape, dtype=torch.int64, device=device)
        paths = _Paths(longs, longs.clone(), torch.zeros(shape, device=device))
        none = torch.full((images, beam), _DEAD, device=device)
        zero = torch.zeros((images, beam), dtype=torch.int64, device=device)
        bank, partial = _Bank(none, none, zero, zero), _Bank(none, none, zero, zero)
        tokens = torch.full((images,), config.begin, dtype=torch.int64, device=device)
        live = torch.zeros((images, 1), device=device)
        history = tokens.new_zeros((images, 0))
        done = 0
        for t in range(config.max_length):
            scores, state = self.step(tokens, state)
            if self.trace is not None:
                self.traces.append(self.trace(state).view(images, live.shape[1], -1))
            values, words = self._extend(scores, history, t)
            live, parents, tokens, bank = self._select(live, values, words, bank, t)
            paths.token[t], paths.parent[t], paths.log_prob[t] = tokens, parents, live
            partial = self._keep_partial(partial, live, t)
            done = t + 1
            if done % config.check_every == 0 and self._all_done(live, bank, done):
                break
            width = 1 if t == 0 else beam
            rows = (self.first_row // beam * width + parents).view(-1)
            tokens = tokens.reshape(-1)
            state = _reorder(state, rows)
            if self.processors:
                history = torch.cat((history.index_select(0, rows), tokens.unsqueeze(1)), 1)
        return self._results(paths, bank, partial)

    def _extend(self, scores: Tensor, history: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Return the best beam_size + 1 words of each row and their log-probabilities."""
        config = self.config
        scores = scores.float()
        norm = scores.logsumexp(-1, keepdim=True)
        if len(config.forbidden):
            scores.index_fill_(1, self.forbidden, _DEAD)
        if t + 1 < config.min_length:
            scores[:, config.end] = _DEAD
        if self.processors:
            scores, norm = scores - norm, torch.zeros_like(norm)
            bad = scores.isnan().any(-1, keepdim=True)
            for processor in self.processors:
                scores = processor(scores, history)
            scores = scores.masked_fill(bad, _DEAD)
        values, words = scores.topk(min(config.beam_size + 1, scores.shape[-1]), -1)
        values = values - norm
        return values.masked_fill(~values.isfinite(), _DEAD), words

    def _select(
        self, live: Tensor, values: Tensor, words: Tensor, bank: _Bank, t: int
    ) -> tuple[Tensor, Tensor, Tensor, _Bank]:
        """Choose among all extensions of an image: (live, parents, tokens) and the new bank."""
        images, beam, width = live.shape[0], self.config.beam_size, values.shape[-1]
        totals = (live.unsqueeze(-1) + values.view(images, -1, width)).view(images, -1)
        words = words.view(images, -1)
        short = 2 * beam - totals.shape[1]
        if short > 0:
            totals = torch.nn.functional.pad(totals, (0, short), value=_DEAD)
            words = torch.nn.functional.pad(words, (0, short), value=self.config.begin)
        totals, order = totals.topk(2 * beam, -1)
        words = words.gather(1, order)
        parents = (order // width).clamp_max(live.shape[1] - 1)
        ends = words == self.config.end
        bank = self._deposit(bank, totals, ends, parents, t)
        live, kept = totals.masked_fill(ends, _DEAD).topk(beam, -1)
        return live, parents.gather(1, kept), words.gather(1, kept), bank

    def _deposit(self, bank: _Bank, totals: Tensor, ends: Tensor, parents: Tensor, t: int) -> _Bank:
        """Let the finished among the first beam_size extensions compete for the bank."""
        beam = self.config.beam_size
        raw = totals[:, :beam].masked_fill(~ends[:, :beam], _DEAD)
        score = raw / _length_penalty(t + 1, self.config.length_penalty)
        new = _Bank(score, raw, torch.full_like(bank.step, t), parents[:, :beam])
        both = [torch.cat(pair, 1) for pair in zip(bank, new, strict=True)]
        best = both[0].topk(beam, -1).indices
        return _Bank(*(part.gather(1, best) for part in both))

    def _keep_partial(self, partial: _Bank, live: Tensor, t: int) -> _Bank:
        """Remember the newest live prefixes of each image that has any."""
        alive = live[:, :1] > _DEAD
        slots = torch.arange(live.shape[1], device=live.device).expand_as(live)
        score = live / _length_penalty(t + 1, self.config.length_penalty)
        new = _Bank(score, live, torch.full_like(partial.step, t), slots)
        return _Bank(*(torch.where(alive, n, p) for n, p in zip(new, partial, strict=True)))

    def _all_done(self, live: Tensor, bank: _Bank, done: int) -> bool:
        """Whether no live prefix of any image can still enter its n_best (one host sync)."""
        alpha = self.config.length_penalty
        best = done + 1 if alpha < 0 else self.config.max_length
        attainable = live[:, 0] / _length_penalty(best, alpha)
        beaten = bank.score[:, self.config.n_best - 1] >= attainable
        return bool((beaten | (live[:, 0] == _DEAD)).all())

    def _results(self, paths: _Paths, bank: _Bank, partial: _Bank) -> list[list[Hypothesis]]:
        """Follow the back-pointers, once, on the host."""
        traces = [trace.cpu() for trace in self.traces]
        host = _Paths(*(part.cpu() for part in paths))
        ended, broken = _entries(bank), _entries(partial)
        results = []
        for image in range(len(ended)):
            path = _Paths(*(column[:, image] for column in host))
            seen = [trace[image] for trace in traces]
            best = [_resolve(path, entry, seen, finished=True) for entry in ended[image]]
            best += [_resolve(path, entry, seen, finished=False) for entry in broken[image]]
            results.append(best[: self.config.n_best] or [_NOTHING])
        return results


_Entry = tuple[float, float, int, int]
_NOTHING = Hypothesis((), 0.0, (), 0.0, finished=False)


def _entries(bank: _Bank) -> list[list[_Entry]]:
    """Return what each image's bank really holds, best first."""
    columns = [part.tolist() for part in bank]
    images = [list(zip(*image, strict=True)) for image in zip(*columns, strict=True)]
    return [[entry for entry in image if entry[0] > _DEAD] for image in images]


def _resolve(path: _Paths, entry: _Entry, traces: list[Tensor], finished: bool) -> Hypothesis:
    """Read one hypothesis backwards; `entry` names its last step and slot there."""
    score, log_prob, last, slot = entry
    totals = [log_prob] if finished else []
    tokens, seen = [], []
    for t in range(last - 1 if finished else last, -1, -1):
        tokens.append(int(path.token[t, slot]))
        totals.append(float(path.log_prob[t, slot]))
        slot = int(path.parent[t, slot])
        if traces:
            seen.append(traces[t][slot])
    steps = zip(totals, [*totals[1:], 0.0], strict=True)
    words = tuple(after - before for after, before in steps)
    trace = torch.stack(seen[::-1]) if seen else None
    return Hypothesis(tuple(tokens[::-1]), log_prob, words[::-1], score, finished, trace)
