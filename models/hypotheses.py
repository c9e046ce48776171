"""What a search found: its record of choices, step by step, and the hypotheses read from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Choice", "Hypothesis", "Record", "length_penalty"]

_DEAD = float("-inf")


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


_NOTHING = Hypothesis((), 0.0, (), 0.0, finished=False)


def length_penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6) ** alpha (Wu et al. 2016, eq. 14)."""
    return float(((5.0 + length) / 6.0) ** alpha)


class Choice(NamedTuple):
    """What one step chose for n images, all (n, K), best first.

    `token`, `parent` (the slot it extends) and `log_prob` are of the prefixes that live on;
    `ended` is log P of the hypotheses that ended here, -inf where none, `ended_parent` their slot.
    """

    token: Tensor
    parent: Tensor
    log_prob: Tensor
    ended: Tensor
    ended_parent: Tensor


class Record:
    """All choices of a search, (T, N, K), on its device; read once, on the host, at the end.

    Images that have left the search record nothing any more.
    """

    def __init__(self, steps: int, images: int, beam: int, alpha: float, like: Tensor) -> None:
        shape, device = (steps, images, beam), like.device
        longs = torch.zeros((3, *shape), dtype=torch.int64, device=device)
        floats = torch.full((2, *shape), _DEAD, device=device)
        self._longs, self._floats = longs, floats
        self._all = Choice(longs[0], longs[1], floats[0], floats[1], longs[2])
        self._alpha = alpha
        penalties = [length_penalty(t + 1, alpha) for t in range(steps)]
        self._penalty = torch.tensor(penalties, device=device).view(-1, 1, 1)
        self._traces: list[tuple[Tensor | None, Tensor]] = []

    def choose(self, t: int, images: Tensor | None, choice: Choice) -> None:
        """Record step ``t`` of ``images`` (n,), or of all where it is None."""
        longs = torch.stack((choice.token, choice.parent, choice.ended_parent))
        floats = torch.stack((choice.log_prob, choice.ended))
        for whole, part in ((self._longs[:, t], longs), (self._floats[:, t], floats)):
            if images is None:
                whole.copy_(part)
            else:
                whole.index_copy_(1, images, part)

    def trace(self, images: Tensor | None, seen: Tensor) -> None:
        """Keep what was seen, (n, slots, ...), when this step's words were scored."""
        self._traces.append((images, seen))

    def nth_best(self, rank: int, steps: int, images: Tensor | None) -> Tensor:
        """Score of each image's ``rank``-th best ended hypothesis of ``steps`` steps, or -inf."""
        ended = self._all.ended[:steps] / self._penalty[:steps]
        if images is not None:
            ended = ended.index_select(1, images)
        ended = ended.transpose(0, 1).flatten(1)
        if ended.shape[1] < rank:  # so few steps cannot have ended so many
            return ended.new_full(ended.shape[:1], _DEAD)
        return ended.topk(rank, -1).values[:, -1]

    def clear(self) -> None:
        """Forget all choices."""
        self._floats.fill_(_DEAD)

    def hypotheses(
        self,
        count: int,
        images: int | None = None,
        traces: Sequence[Tensor] | None = None,
    ) -> list[list[Hypothesis]]:
        """Return the ``count`` best of each image: the ended, then the newest live prefixes.

        Args:
            count: How many of each, at most.
            images: Read only so many images, the first.
            traces: What was seen at each step by all images, where :meth:`trace` was not told.

        """
        own = slice(images)
        longs, floats = (part[:, :, own].cpu().numpy() for part in (self._longs, self._floats))
        paths = _Paths(longs, floats.astype(np.float64), self._alpha)
        best = paths.best(count)
        seen = self._traces if traces is None else [(None, part) for part in traces]
        slots, has = paths.slots(best)
        parents = np.where(has, paths.at(longs[1], slots), 0) if seen else slots
        return paths.read(best, slots, has, _gathered(seen, parents))


class _Best(NamedTuple):
    """Ends of paths, (N, count) each: score, log P, last step (-1: none) and its slot.

    Where ``there`` is False, there are fewer.
    """

    score: NDArray[Any]
    total: NDArray[Any]
    last: NDArray[Any]
    slot: NDArray[Any]
    finished: NDArray[Any]
    there: NDArray[Any]


class _Paths:
    """Follows the back-pointers of all images at once; arrays are (T, N, K)."""

    def __init__(self, longs: NDArray[Any], floats: NDArray[Any], alpha: float) -> None:
        self._token, self._parent, self._ended_parent = longs
        self._log_prob, self._ended_at = floats
        self._steps, self._images, self._slots = self._log_prob.shape
        self._penalty = np.array([length_penalty(t, alpha) for t in range(self._steps + 1)])

    def best(self, count: int) -> _Best:
        """Ends of the best paths: the ended by their score, then the live of the newest step."""
        ended, live = self._ended(), self._live()
        order = np.argsort(-ended.score, axis=1, kind="stable")[:, :count]
        ended = _Best(*(np.take_along_axis(part, order, 1) for part in ended))
        both = _Best(*(np.concatenate(parts, 1) for parts in zip(ended, live, strict=True)))
        first = np.argsort(~both.there, axis=1, kind="stable")[:, :count]
        return _Best(*(np.take_along_axis(part, first, 1) for part in both))

    def _ended(self) -> _Best:
        total = self._ended_at
        score = total / self._penalty[1:, None, None]
        last = np.broadcast_to(np.arange(self._steps)[:, None, None] - 1, total.shape)
        there = total > _DEAD
        parts = (score, total, last, self._ended_parent, there, there)
        return _Best(*(part.transpose(1, 0, 2).reshape(self._images, -1) for part in parts))

    def _live(self) -> _Best:
        alive = self._log_prob[:, :, 0] > _DEAD
        newest = np.where(alive, np.arange(self._steps)[:, None], -1).max(0)
        total = self._log_prob[newest, np.arange(self._images)]
        last = np.broadcast_to(newest[:, None], total.shape)
        slot = np.broadcast_to(np.arange(self._slots), total.shape)
        score = total / self._penalty[newest + 1][:, None]
        there = (total > _DEAD) & (last >= 0)
        return _Best(score, total, last, slot, np.zeros_like(there), there)

    def slots(self, best: _Best) -> tuple[NDArray[Any], NDArray[Any]]:
        """Go back over the steps: each path's slot in each, and whether it has the step.

        Both are (T, N, count).
        """
        found = np.empty((self._steps, *best.slot.shape), np.int64)
        has = best.last >= np.arange(self._steps)[:, None, None]
        images, slot = np.arange(self._images)[:, None], best.slot
        for t in range(self._steps - 1, -1, -1):
            found[t] = slot
            slot = np.where(has[t], self._parent[t, images, slot], slot)
        return found, has

    def at(self, values: NDArray[Any], slots: NDArray[Any]) -> NDArray[Any]:
        """Values (T, N, K) of the paths: (T, N, count)."""
        return np.take_along_axis(values, slots, -1)

    def read(
        self,
        best: _Best,
        slots: NDArray[Any],
        has: NDArray[Any],
        traces: Tensor | None,
    ) -> list[list[Hypothesis]]:
        """Read paths into hypotheses; ``traces`` is (T, N, count, ...) on the host."""
        tokens = self.at(self._token, slots).transpose(1, 2, 0)
        totals = np.zeros((*best.slot.shape, self._steps + 1))
        totals[..., :-1] = np.where(has, self.at(self._log_prob, slots), 0.0).transpose(1, 2, 0)
        np.put_along_axis(totals, best.last[..., None] + 1, best.total[..., None], -1)
        table = (*(part.tolist() for part in best), tokens.tolist())
        with np.errstate(invalid="ignore"):  # behind a path's end there is nothing to subtract
            words = np.diff(totals, axis=-1, prepend=0.0).tolist()
        return [
            [
                Hypothesis(
                    tuple(path[: last + 1]),
                    total,
                    tuple(own[: last + 1 + finished]),
                    score,
                    finished,
                    None if traces is None or last < 0 else traces[: last + 1, image, place],
                )
                for place, (score, total, last, _, finished, there, path, own) in enumerate(
                    zip(*row, words[image], strict=True)
                )
                if there
            ]
            or [_NOTHING]
            for image, row in enumerate(zip(*table, strict=True))
        ]


def _gathered(
    traces: Sequence[tuple[Tensor | None, Tensor]], parents: NDArray[np.int64]
) -> Tensor | None:
    """Cut out of each step's traces what the paths saw: (steps, N, count, ...) on the host."""
    if not traces:
        return None
    slots = torch.from_numpy(parents).to(traces[0][1].device)
    steps = []
    for (images, seen), slot in zip(traces, slots, strict=False):
        place = torch.arange(len(slot), device=slot.device)
        if images is not None:  # an image that has left has no such step, so any place will do
            place = torch.zeros_like(place).index_copy_(0, images, place[: len(images)])
        steps.append(seen[place.unsqueeze(1), slot.clamp_max(seen.shape[1] - 1)])
    return torch.stack(steps).cpu()
