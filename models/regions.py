"""Region features: what a detector finds, pooled (Anderson et al. 2018, Bottom-Up and Top-Down).

Every region is its pooled features and, as its last four numbers, its box: so the box goes
wherever the features go, the decoder knows where a region lies, and an explanation can draw it.
"""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

__all__ = ["BOX_SIZE", "REGION_GRID_SIDE", "RegionTrunk", "spread_over_grid"]

BOX_SIZE = 4
"""Left, top, right and bottom in fractions of the picture."""
REGION_GRID_SIDE = 14
"""Rows and columns of the grid on which attention over boxes is told."""

_REGIONS = 36
_CANDIDATES = 128


class RegionTrunk(nn.Module):
    """The regions of a Faster R-CNN that it is surest of, and always the whole picture.

    Args:
        name: A Faster R-CNN of torchvision; it is built without trained weights.

    """

    def __init__(self, name: str) -> None:
        super().__init__()
        model: Any = torchvision.models.get_model(name, weights=None, weights_backbone=None)
        self.backbone = model.backbone
        self.rpn = model.rpn
        self.roi_heads = model.roi_heads

    def forward(self, pictures: Tensor) -> Tensor:
        """From normalised (N, 3, S, S) to (N, D + 4, R, 1): R regions, the surest first."""
        count, _, height, width = pictures.shape
        sizes = [(height, width)] * count
        maps = self.backbone(pictures)
        proposals, _ = self.rpn(ImageList(pictures, sizes), maps)
        whole = pictures.new_tensor([0.0, 0.0, width, height])
        boxes = torch.stack([_candidates(found, whole) for found in proposals])
        heads = self.roi_heads
        pooled = heads.box_head(heads.box_roi_pool(maps, list(boxes), sizes))
        scores: Tensor = heads.box_predictor(pooled)[0].softmax(-1)
        sureness = scores[:, 1:].amax(-1).view(count, -1)  # class 0 is the background
        sureness = sureness.masked_fill((boxes == whole).all(-1), -1.0)
        sureness[:, 0] = 2.0
        best = sureness.topk(_REGIONS, -1).indices.unsqueeze(-1)
        pooled = pooled.view(count, _CANDIDATES, -1)
        scale = torch.stack((whole[2], whole[3], whole[2], whole[3]))
        both = torch.cat((pooled, boxes / scale), -1)
        chosen = both.gather(1, best.expand(-1, -1, both.shape[-1]))
        return chosen.transpose(1, 2).unsqueeze(-1)


def spread_over_grid(weights: Tensor, boxes: Tensor, side: int = REGION_GRID_SIDE) -> Tensor:
    """Spread each region's weight evenly over its box.

    Args:
        weights: (..., R).
        boxes: (..., R, 4), left, top, right, bottom in fractions of the picture.
        side: Rows and columns of the grid.

    Returns:
        (..., side, side) with the same sum as the weights.

    """
    low = boxes[..., :2].clamp(0.0, 1.0 - 1e-3)
    high = torch.maximum(boxes[..., 2:].clamp(0.0, 1.0), low + 1e-3)
    edges = torch.linspace(0.0, 1.0, side + 1, device=boxes.device)
    overlap = torch.minimum(high.unsqueeze(-1), edges[1:]) - torch.maximum(
        low.unsqueeze(-1), edges[:-1]
    )
    share = overlap.clamp_min(0.0)
    share = share / share.sum(-1, keepdim=True)
    columns, rows = share[..., 0, :], share[..., 1, :]
    return torch.einsum("...r,...ri,...rj->...ij", weights, rows, columns)


def _candidates(found: Tensor, whole: Tensor) -> Tensor:
    """Put the whole picture before the proposals (K, 4), and again where there are too few."""
    best = found[: _CANDIDATES - 1]
    rest = whole.expand(_CANDIDATES - 1 - len(best), BOX_SIZE)
    return torch.cat((whole.unsqueeze(0), best, rest))
