"""A second reading of a frame, for hazard evidence alone.

The encoder's upper stages are fine-tuned for captions, and they learn the training scenes by
heart: a read-out on them tells hazards of those scenes almost surely and of new ones much less
well. So upper stages nearer to the starting weights stand beside the tuned ones, and what they see
stands behind the tuned features, channel by channel; captions need not pay for it. The maps below
come along, for motion (docs/adr/0023-evidence-branch.md).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["EvidenceBranch"]


class EvidenceBranch(nn.Module):
    """Copy of an encoder's upper stages, beside the maps that they read; gradients never reach it.

    Attributes:
        lower_stages: How many stages of the encoder lie below.
        size: Channels of what :meth:`forward` returns.

    """

    def __init__(self, stages: Sequence[nn.Module], lower_stages: int, channels: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(copy.deepcopy(list(stages)))
        self.lower_stages = lower_stages
        self.requires_grad_(requires_grad=False)
        self.eval()
        with torch.inference_mode():
            self.size = int(self(torch.zeros(1, channels, 8, 8)).shape[1])

    def forward(self, maps: Tensor) -> Tensor:
        """Return (N, C, H, W) features of (N, C', H', W') maps, the maps' own means last."""
        seen = maps
        for stage in self.stages:
            seen = stage(seen)
        return torch.cat((seen, F.adaptive_avg_pool2d(maps, (seen.shape[2], seen.shape[3]))), 1)

    def train(self, mode: bool = True) -> EvidenceBranch:
        """Stay in evaluation mode: it never learns."""
        del mode
        return super().train(mode=False)
