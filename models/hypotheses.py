"""What a search found: its record of choices, step by step, and the hypotheses read from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
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
        self._all = Choice(longs[0], longs[1], floats[0], floats[1], longs[2])
        self._alpha = alpha
        penalties = [length_penalty(t + 1, alpha) for t in range(steps)]
        self._penalty = torch.tensor(penalties, device=device).view(-1, 1, 1)
        self._traces: list[tuple[Tensor | None, Tensor]] = []

    def choose(self, t: int, images: Tensor | None, choice: Choice) -> None:
        """Record step ``t`` of ``images`` (n,), or of all where it is None."""
        for whole, part in zip(self._all, choice, strict=True):
            if images is None:
                whole[t] = part
            else:
                whole[t].index_copy_(0, images, part)

    def trace(self, images: Tensor | None, seen: Tensor) -> None:
        """Keep what was seen, (n, slots, ...), when this step's words were scored."""
        self._traces.append((images, seen))

    def nth_best(self, rank: int, steps: int, images: Tensor | None) -> Tensor:
        """Score of each image's ``rank``-th best ended hypothesis of ``steps`` steps, or -inf."""
        ended = self._all.ended[:steps] / self._penalty[:steps]
        if images is not None:
            ended = ended.index_select(1, images)
        return ended.transpose(0, 1).flatten(1).topk(rank, -1).values[:, -1]

    def hypotheses(self, count: int) -> list[list[Hypothesis]]:
        """Return the ``count`` best of each image: the ended, then the newest live prefixes."""
        host = Choice(*(part.cpu() for part in self._all))
        traces = [(_positions(images), seen.cpu()) for images, seen in self._traces]
        results = []
        for image in range(host.token.shape[1]):
            choices = Choice(*(part[:, image] for part in host))
            seen = [seen[at[image] if at else image] for at, seen in traces if _has(at, image)]
            reader = _Reader(choices, seen, self._alpha)
            results.append(reader.best(count) or [_NOTHING])
        return results


def _positions(images: Tensor | None) -> dict[int, int] | None:
    if images is None:
        return None
    return {image: position for position, image in enumerate(images.tolist())}


def _has(positions: dict[int, int] | None, image: int) -> bool:
    return positions is None or image in positions


class _Reader:
    """Follows the back-pointers of one image."""

    def __init__(self, choices: Choice, seen: Sequence[Tensor], alpha: float) -> None:
        self._token, self._parent, _, _, self._ended_parent = (c.tolist() for c in choices)
        self._log_prob: list[list[float]] = choices.log_prob.tolist()
        self._ended: list[list[float]] = choices.ended.tolist()
        self._seen = seen
        self._alpha = alpha

    def best(self, count: int) -> list[Hypothesis]:
        found = [
            self._ended_at(t, slot, total)
            for t, totals in enumerate(self._ended)
            for slot, total in enumerate(totals)
            if total > _DEAD
        ]
        found.sort(key=lambda hypothesis: -hypothesis[0])
        entries = [*found, *self._live()][:count]
        return [self._read(*entry) for entry in entries]

    def _ended_at(self, t: int, slot: int, total: float) -> tuple[float, float, int, int, bool]:
        score = total / length_penalty(t + 1, self._alpha)
        return score, total, t - 1, self._ended_parent[t][slot], True

    def _live(self) -> list[tuple[float, float, int, int, bool]]:
        """The newest step's live prefixes."""
        last = max((t for t, row in enumerate(self._log_prob) if row[0] > _DEAD), default=-1)
        penalty = length_penalty(last + 1, self._alpha)
        row = self._log_prob[last] if last >= 0 else []
        return [(p / penalty, p, last, k, False) for k, p in enumerate(row) if p > _DEAD]

    def _read(self, score: float, total: float, last: int, slot: int, finished: bool) -> Hypothesis:
        """Read backwards from slot ``slot`` of step ``last``."""
        totals = [total] if finished else []
        tokens, seen = [], []
        for t in range(last, -1, -1):
            tokens.append(self._token[t][slot])
            totals.append(self._log_prob[t][slot])
            slot = self._parent[t][slot]
            if self._seen:
                seen.append(self._seen[t][slot])
        steps = zip(totals, [*totals[1:], 0.0], strict=True)
        words = tuple(after - before for after, before in steps)
        trace = torch.stack(seen[::-1]) if seen else None
        return Hypothesis(tuple(tokens[::-1]), total, words[::-1], score, finished, trace)
