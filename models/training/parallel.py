"""One machine, several GPUs: ``torchrun --nproc-per-node N -m models.training ...``.

Every process draws the same batches, takes each N-th and averages its gradients with the others'
before each step, so that N processes learn as one with batches N times as large.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

__all__ = ["ALONE", "Processes", "join_processes"]

_LEADER_ALONE = timedelta(hours=6)
"""How long the others wait while the leader builds a cache; ten minutes unless it is said."""


@dataclass(frozen=True)
class Processes:
    """One process among those that train together."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this one writes checkpoints and logs."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the mean gradient; one that has none puts in zero.

        What has a gradient in no process is left without: an optimizer would move it by weight
        decay and by what it remembers, which one process by itself does not.
        """
        if self.count == 1:
            return
        learned = [p for p in parameters if p.requires_grad]
        learns = torch.tensor([float(p.grad is not None) for p in learned])
        learns = learns.to(learned[0].device)
        distributed.all_reduce(learns)
        learned = [p for p, any_learns in zip(learned, learns.tolist(), strict=True) if any_learns]
        if not learned:
            return
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in learned]
        )
        distributed.all_reduce(flat)
        parts = torch.split(flat / self.count, [p.numel() for p in learned])
        for parameter, gradient in zip(learned, parts, strict=True):
            parameter.grad = gradient.view_as(parameter)

    def follow_leader(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors in place with the leader's, so that rounding never adds up."""
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor.detach(), src=0)

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Let the leader through alone, then the others."""
        if self.count > 1 and not self.leads:
            distributed.barrier()
        yield
        if self.count > 1 and self.leads:
            distributed.barrier()

    def leave(self) -> None:
        """Part from the others, at the end."""
        if self.count > 1:
            distributed.destroy_process_group()


ALONE = Processes()


def join_processes() -> Processes:
    """Join the others that torchrun started, if it did, each with a GPU of its own if there is."""
    if not distributed.is_torchelastic_launched():
        return ALONE
    distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo", timeout=_LEADER_ALONE
    )
    rank = distributed.get_rank()
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    return Processes(rank, distributed.get_world_size())
