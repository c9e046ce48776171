"""Searches that choose among whole score rows: with forced words, and diverse beams.

Both move ``slots`` prefixes of each image on together, over the same step and record as
:func:`models.search.search`; only the choice of what lives on differs. They look at every word of
every prefix, where the plain search looks at the best few, so they cost more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from models.hypotheses import Choice, Hypothesis, Record, length_penalty
from models.search import NgramBlock, SearchConfig, Step

__all__ = ["MAX_FORCED", "constrained_search", "diverse_search"]

MAX_FORCED = 4
"""How many words may be forced at once: each doubles the beams."""

State = TypeVar("State", bound="tuple[Tensor, ...]")
Trace = Callable[[State], Tensor]
_DEAD = float("-inf")


class _Moved(NamedTuple):
    """One step: its number, what was seen (N, slots, ...) before it, and what it chose."""

    t: int
    seen: Tensor | None
    choice: Choice


def constrained_search(
    step: Step[State],
    state: State,
    config: SearchConfig,
    forced: Sequence[Sequence[int]],
    trace: Trace[State] | None = None,
) -> list[list[Hypothesis]]:
    """Beam search for captions that hold a token of each set of ``forced``.

    Anderson et al. 2017, Guided Open Vocabulary Image Captioning with Constrained Beam Search: a
    beam of ``config.beam_size`` prefixes for each set of constraints still missing; a prefix moves
    to another beam by saying such a word, and only captions that miss nothing may end.

    Raises:
        ValueError: More than :data:`MAX_FORCED` sets, one that is empty or wholly forbidden, or
            fewer steps than it takes to say them.

    """
    _check_forced(forced, config)
    banks = 1 << len(forced)
    alive = [(banks - 1) * config.beam_size]  # everything is missing
    chooser = _Constrained(config, forced)
    record: Record | None = None
    for moved in _steps(step, state, config, banks * config.beam_size, alive, chooser, trace):
        record = record or _record(config, moved.choice)
        _keep(record, moved)
        if _settled([record], config, moved):
            break
    return record.hypotheses(config.n_best) if record else []


def diverse_search(
    step: Step[State],
    state: State,
    config: SearchConfig,
    groups: int,
    strength: float,
    trace: Trace[State] | None = None,
) -> list[list[Hypothesis]]:
    """Diverse beam search with Hamming diversity (Vijayakumar et al. 2016); one caption a group.

    ``config.beam_size`` prefixes are split over ``groups``. A group ranks a word ``strength`` nats
    lower for each time that earlier groups chose it at the same step; the log-probabilities of
    what it finds stay the model's own.

    Raises:
        ValueError: ``groups`` does not divide the beam size.

    """
    if groups < 1 or config.beam_size % groups:
        raise ValueError(f"{groups} groups do not divide a beam size of {config.beam_size}")
    width = config.beam_size // groups
    starts = [group * width for group in range(groups)]
    chooser = _Diverse(config, groups, strength)
    records: list[Record] = []
    for moved in _steps(step, state, config, config.beam_size, starts, chooser, trace):
        records = records or [_record(config, moved.choice, width) for _ in starts]
        for record, start in zip(records, starts, strict=True):
            _keep(record, _group(moved, start, width))
        if _settled(records, config, moved):
            break
    found = [record.hypotheses(1) for record in records]
    return [_ranked([best[0] for best in of_image]) for of_image in zip(*found, strict=True)]


def _steps(
    step: Step[State],
    state: State,
    config: SearchConfig,
    slots: int,
    alive: Sequence[int],
    chooser: Callable[[Tensor], Choice],
    trace: Trace[State] | None,
) -> Iterator[_Moved]:
    """Move ``slots`` prefixes of each image on; those at ``alive`` begin, the others are dead."""
    images, device = len(state[0]), state[0].device
    if not images:
        return
    state = _at(state, torch.arange(images, device=device).repeat_interleave(slots))
    tokens = torch.full((images * slots,), config.begin, dtype=torch.int64, device=device)
    live = torch.full((images, slots), _DEAD, device=device)
    live[:, list(alive)] = 0.0
    history = tokens.new_zeros((images * slots, 0))
    first = torch.arange(0, images * slots, slots, device=device).unsqueeze(1)
    for t in range(config.max_length):
        scores, state = step(tokens, state)
        seen = None if trace is None else trace(state).view(images, slots, -1)
        log_probs = _log_probs(scores, history, config, t).view(images, slots, -1)
        choice = chooser(live.unsqueeze(-1) + log_probs)
        rows = (first + choice.parent).view(-1)
        tokens, live = choice.token.reshape(-1), choice.log_prob
        history = torch.cat((history[rows], tokens.unsqueeze(1)), 1)
        state = _at(state, rows)
        yield _Moved(t, seen, choice)


def _log_probs(scores: Tensor, history: Tensor, config: SearchConfig, t: int) -> Tensor:
    """Log-probabilities (rows, V), -inf for what may not come; a row with NaN or +inf is dead."""
    scores = scores.float()
    norm = scores.logsumexp(-1, keepdim=True)
    scores = (scores - norm).masked_fill(~norm.isfinite(), _DEAD)
    if config.forbidden:
        scores[:, list(config.forbidden)] = _DEAD
    if t + 1 < config.min_length:
        scores[:, config.end] = _DEAD
    return NgramBlock(config.block_ngrams)(scores, history) if config.block_ngrams else scores


class _Constrained:
    """Chooses for each beam; the beam of slots b * K ... misses the constraints in the bits of b.

    So beam 0 misses none.
    """

    def __init__(self, config: SearchConfig, forced: Sequence[Sequence[int]]) -> None:
        self._beam, self._end = config.beam_size, config.end
        self._forced = forced

    def __call__(self, totals: Tensor) -> Choice:
        """Choose from (N, banks * K, V) totals."""
        banks = 1 << len(self._forced)
        target = self._targets(totals).repeat_interleave(self._beam, 0)
        chosen = []
        for bank in range(banks):
            choice = _pick(totals.masked_fill(target != bank, _DEAD), 0.0, self._beam, self._end)
            chosen.append(choice if bank == 0 else choice._replace(ended=choice.ended + _DEAD))
        return Choice(*(torch.cat(parts, 1) for parts in zip(*chosen, strict=True)))

    def _targets(self, totals: Tensor) -> Tensor:
        """Beam that each word leads to from each beam, (banks, V)."""
        said = torch.zeros(totals.shape[-1], dtype=torch.int64, device=totals.device)
        for bit, tokens in enumerate(self._forced):
            said[list(tokens)] |= 1 << bit
        missing = torch.arange(1 << len(self._forced), device=totals.device)
        return missing.unsqueeze(1) & ~said


class _Diverse:
    """Chooses group by group; later groups keep off the words of earlier ones."""

    def __init__(self, config: SearchConfig, groups: int, strength: float) -> None:
        self._width, self._end = config.beam_size // groups, config.end
        self._groups, self._strength = groups, strength

    def __call__(self, totals: Tensor) -> Choice:
        """Choose from (N, groups * K, V) totals."""
        used = torch.zeros_like(totals[:, 0])
        chosen = []
        for group in range(self._groups):
            start = group * self._width
            own = totals[:, start : start + self._width]
            penalty = self._strength * used.unsqueeze(1)
            choice = _pick(own, penalty, self._width, self._end)
            used = used.scatter_add(1, choice.token, torch.ones_like(choice.log_prob))
            chosen.append(
                choice._replace(
                    parent=choice.parent + start, ended_parent=choice.ended_parent + start
                )
            )
        return Choice(*(torch.cat(parts, 1) for parts in zip(*chosen, strict=True)))


def _pick(totals: Tensor, penalty: Tensor | float, beam: int, end: int) -> Choice:
    """Choose as the plain search does, among (N, slots, V) totals ranked less a penalty.

    Of the best 2 * beam, an end among the first ``beam`` is kept as ended, and the best ``beam``
    others live on.
    """
    words = totals.shape[-1]
    ranks, flat = (totals - penalty).flatten(1), totals.flatten(1)
    short = max(0, 2 * beam - flat.shape[1])
    ranks, flat = F.pad(ranks, (0, short), value=_DEAD), F.pad(flat, (0, short), value=_DEAD)
    ranks, order = ranks.topk(2 * beam, -1)
    best = flat.gather(1, order)
    token, parent = order % words, (order // words).clamp_max(totals.shape[1] - 1)
    ends = token == end
    ended = best[:, :beam].masked_fill(~ends[:, :beam], _DEAD)
    kept = ranks.masked_fill(ends, _DEAD).topk(beam, -1).indices
    log_prob = best.masked_fill(ends, _DEAD).gather(1, kept)
    return Choice(token.gather(1, kept), parent.gather(1, kept), log_prob, ended, parent[:, :beam])


def _check_forced(forced: Sequence[Sequence[int]], config: SearchConfig) -> None:
    if len(forced) > MAX_FORCED:
        raise ValueError(f"{len(forced)} words cannot be forced at once; {MAX_FORCED} can")
    if any(not set(tokens) - set(config.forbidden) for tokens in forced):
        raise ValueError("a forced word is forbidden as well")
    if config.max_length <= len(forced):
        raise ValueError(f"{len(forced)} forced words need more than {config.max_length} steps")


def _record(config: SearchConfig, choice: Choice, slots: int | None = None) -> Record:
    images, all_slots = choice.token.shape
    width = slots or all_slots
    return Record(config.max_length, images, width, config.length_penalty, choice.log_prob)


def _keep(record: Record, moved: _Moved) -> None:
    if moved.seen is not None:
        record.trace(None, moved.seen)
    record.choose(moved.t, None, moved.choice)


def _group(moved: _Moved, start: int, width: int) -> _Moved:
    """Cut out one group's slots; its parents count from its first slot."""
    own = slice(start, start + width)
    cut = Choice(*(part[:, own] for part in moved.choice))
    cut = cut._replace(parent=cut.parent - start, ended_parent=cut.ended_parent - start)
    return _Moved(moved.t, None if moved.seen is None else moved.seen[:, own], cut)


def _settled(records: Sequence[Record], config: SearchConfig, moved: _Moved) -> bool:
    """Whether no live prefix of any image can still change what is found."""
    done = moved.t + 1
    if done % config.check_every:
        return False
    alpha = config.length_penalty
    best = done + 1 if alpha < 0 else config.max_length
    live = moved.choice.log_prob
    rank = config.n_best if len(records) == 1 else 1
    width = live.shape[1] // len(records)
    for index, record in enumerate(records):
        highest = live[:, index * width : (index + 1) * width].amax(1)
        attainable = highest / length_penalty(best, alpha)
        if not bool((record.nth_best(rank, done, None) >= attainable).all()):
            return False
    return True


def _ranked(hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Different captions only: the finished before the others, the best score first."""
    different = {h.tokens: h for h in sorted(hypotheses, key=lambda h: h.score)}
    return sorted(different.values(), key=lambda h: (not h.finished, -h.score))


def _at(state: State, rows: Tensor) -> State:
    return type(state)(*(part.index_select(0, rows) for part in state))
