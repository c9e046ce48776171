"""Greedy and beam search over a step function, for a whole batch at once; knows no model.

The search keeps `beam_size` live prefixes per image. A step looks at the best `2 * beam_size`
extensions of the live prefixes: an end token among the first `beam_size` of them is a finished
hypothesis, the best `beam_size` others live on. An image is done when no live prefix can still
beat its best finished hypotheses, so looking at that only every few steps, leaving the batch then,
or going on for the sake of another image, never changes a result.

Finished hypotheses are ranked by log P / lp, lp = ((5 + length) / 6) ** alpha, the length with
the end token (Wu et al. 2016, "Google's Neural Machine Translation System", eq. 14).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from models.hypotheses import Choice, Hypothesis, Record, length_penalty

__all__ = [
    "BeamSearch",
    "Front",
    "Hypothesis",
    "Leavable",
    "NgramBlock",
    "Processor",
    "SearchConfig",
    "Step",
    "Whole",
    "search",
]

State = TypeVar("State", bound="tuple[Tensor, ...]")
Step = Callable[[Tensor, State], "tuple[Tensor, State]"]
"""`step(tokens (rows,) int64, state) -> (scores (rows, V), state)`.

Scores are logits or log-probabilities (the search subtracts their logsumexp). Rows are N in the
first call and N * beam_size, image-major, afterwards. Whatever is the same for all beams of an
image belongs to the step object, not to the state.
"""
Processor = Callable[[Tensor, Tensor], Tensor]
"""`processor(log_probs (rows, V), history (rows, t)) -> log_probs`; may lower them, in place."""

_DEAD = float("-inf")
# A smaller batch must be worth the copying of what the step remembers of each image.
_LEAVE_AT = 0.75
# Where there are fewer scores, looking for the best in blocks takes longer than without.
_BLOCK, _WORTH_BLOCKS = 64, 65_536


@runtime_checkable
class Leavable(Protocol):
    """A step that can go on with fewer images: those that are done then leave the batch."""

    def keep(self, images: Tensor) -> None:
        """Go on with ``images`` (n,) int64 only: their places among those there are now."""


class Whole(Protocol):
    """A step that can search on its own, with a result that is the same."""

    def search(
        self, state: Any, config: SearchConfig, trace: Callable[[Any], Tensor] | None
    ) -> list[list[Hypothesis]]:
        """Do what :func:`search` does without processors."""


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
        if not 1 <= self.n_best <= 2 * self.beam_size:
            raise ValueError(f"n_best must lie in 1..2 * beam_size, not {self.n_best}")
        if min(self.min_length, self.block_ngrams) < 0:
            raise ValueError("min_length and block_ngrams must not be negative")


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
        if not processors and hasattr(step, "search"):
            whole: Whole = step
            return whole.search(state, config, trace)
        device = state[0].device
        forbidden = torch.tensor(config.forbidden, dtype=torch.int64, device=device)
        return BeamSearch(step, config, forbidden, processors, trace).run(state)


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
        limit = torch.where(repeats, _DEAD, -_DEAD).to(log_probs.dtype)
        return log_probs.scatter_reduce_(1, grams[..., -1], limit, "amin")


def _best_words(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` best of each row of (rows, V) scores, and their places.

    They lie in the ``count`` blocks of words with the greatest maxima, or in what is left over of
    the last block. On a CPU a maximum costs much less than ``topk``.
    """
    rows, words = scores.shape
    blocks = words // _BLOCK
    if scores.device.type != "cpu" or scores.numel() < _WORTH_BLOCKS or blocks <= count:
        values, places = scores.topk(count, -1)
        return values, places
    greatest = scores[:, : blocks * _BLOCK].view(rows, blocks, _BLOCK).amax(-1)
    first = greatest.topk(count, -1).indices * _BLOCK
    near = (first.unsqueeze(-1) + torch.arange(_BLOCK)).flatten(1)
    rest = torch.arange(blocks * _BLOCK, words).expand(rows, -1)
    near = torch.cat((near, rest), 1)
    values, places = scores.gather(1, near).topk(count, -1)
    return values, near.gather(1, places)


class Front(NamedTuple):
    """Where a search stands.

    `images` (n,) that still search (None: all), the last `tokens` (rows,), log P of the prefixes
    `live` (n, slots) and, for processors, their `history` (rows, t).
    """

    images: Tensor | None
    tokens: Tensor
    live: Tensor
    history: Tensor


class BeamSearch(Generic[State]):
    """The search's parts: its start, one word on, and whether to go on.

    ``forbidden`` (n,) int64 are ``config.forbidden`` on the device, in any order, repeated or not.
    """

    def __init__(
        self,
        step: Step[State],
        config: SearchConfig,
        forbidden: Tensor,
        processors: Sequence[Processor] = (),
        trace: Callable[[State], Tensor] | None = None,
    ) -> None:
        self.step, self.config, self.trace = step, config, trace
        self.forbidden = forbidden
        block = (NgramBlock(config.block_ngrams),) if config.block_ngrams else ()
        self.processors = (*block, *processors)

    def run(self, state: State) -> list[list[Hypothesis]]:
        """Search from a state with one row an image."""
        config, like = self.config, state[0]
        if not len(like):
            return []
        record = Record(config.max_length, len(like), config.beam_size, config.length_penalty, like)
        front = self.start(like)
        for t in range(config.max_length):
            images = front.images
            front, state, seen = self.advance(front, state, record, t)
            if seen is not None:
                record.trace(images, seen)
            if (t + 1) % config.check_every == 0:
                going = self.going(front, record, t + 1)
                count = int(going.sum())  # the one host sync
                if not count:
                    break
                if count <= _LEAVE_AT * len(going) and isinstance(self.step, Leavable):
                    front, state = self._leave(front, state, going.nonzero().view(-1))
        return record.hypotheses(config.n_best)

    def start(self, like: Tensor) -> Front:
        """Begin with one prefix for each row of ``like``."""
        images, device = len(like), like.device
        tokens = torch.full((images,), self.config.begin, dtype=torch.int64, device=device)
        live = torch.zeros((images, 1), device=device)
        return Front(None, tokens, live, tokens.new_zeros((images, 0)))

    def advance(
        self, front: Front, state: State, record: Record, t: int
    ) -> tuple[Front, State, Tensor | None]:
        """One word on, for every prefix; the third is what was traced, (n, slots, ...)."""
        images, live = front.images, front.live
        scores, state = self.step(front.tokens, state)
        seen = None if self.trace is None else self.trace(state).view(*live.shape, -1)
        choice = self._select(live, *self._extend(scores, front.history, t))
        record.choose(t, images, choice)
        # Made anew each time: a recorded search may keep no tensor that another size replaces.
        first = torch.arange(0, live.numel(), live.shape[1], device=live.device)
        rows = (first.unsqueeze(1) + choice.parent).view(-1)
        tokens, history = choice.token.reshape(-1), front.history
        if self.processors:
            history = torch.cat((history.index_select(0, rows), tokens.unsqueeze(1)), 1)
        return Front(images, tokens, choice.log_prob, history), _reorder(state, rows), seen

    def _extend(self, scores: Tensor, history: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Return the best beam_size + 1 words of each row and their log-probabilities."""
        config = self.config
        # One pass on any device; NaN or +inf among a row's scores makes NaN of all of them.
        scores = scores.float().log_softmax(-1)
        if len(self.forbidden):
            scores.index_fill_(1, self.forbidden, _DEAD)
        if t + 1 < config.min_length:
            scores[:, config.end] = _DEAD
        for processor in self.processors:
            scores = processor(scores, history)
        values, words = _best_words(scores, min(config.beam_size + 1, scores.shape[-1]))
        return values.nan_to_num_(nan=_DEAD, posinf=_DEAD, neginf=_DEAD), words

    def _select(self, live: Tensor, values: Tensor, words: Tensor) -> Choice:
        """Choose among all extensions of an image."""
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
        ended = totals[:, :beam].masked_fill(~ends[:, :beam], _DEAD)
        log_prob, kept = totals.masked_fill_(ends, _DEAD).topk(beam, -1)
        return Choice(
            words.gather(1, kept), parents.gather(1, kept), log_prob, ended, parents[:, :beam]
        )

    def going(self, front: Front, record: Record, done: int) -> Tensor:
        """Whether a live prefix of each image can still enter its n_best, (n,) bool."""
        alpha = self.config.length_penalty
        best = done + 1 if alpha < 0 else self.config.max_length
        attainable = front.live[:, 0] / length_penalty(best, alpha)
        beaten = record.nth_best(self.config.n_best, done, front.images) >= attainable
        return ~beaten & (front.live[:, 0] > _DEAD)

    def _leave(self, front: Front, state: State, going: Tensor) -> tuple[Front, State]:
        """Go on with the images at ``going`` (m,) only."""
        assert isinstance(self.step, Leavable)
        self.step.keep(going)
        beam = self.config.beam_size
        slots = torch.arange(beam, device=going.device)
        rows = (going.unsqueeze(1) * beam + slots).view(-1)
        images = going if front.images is None else front.images[going]
        front = Front(images, front.tokens[rows], front.live[going], front.history[rows])
        return front, _reorder(state, rows)
