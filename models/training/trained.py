"""What is trained, as one module."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from models.decoders import Decoder
from models.encoders import Encoder
from models.fusion import Memory

__all__ = ["CaptionerTraining", "regions_of"]


def regions_of(stages: Iterable[nn.Module], maps: Tensor) -> Tensor:
    """Run maps (N, T, C, H, W) through upper stages: regions (N, T, R, D)."""
    flat = maps.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    for stage in stages:
        flat = stage(flat)
    regions = flat.flatten(2).transpose(1, 2)
    return regions.reshape(*maps.shape[:2], *regions.shape[1:])


class CaptionerTraining(nn.Module):
    """What is trained, as one module: the encoder's upper stages and the decoder."""

    def __init__(self, encoder: Encoder, decoder: Decoder, frozen_stages: int) -> None:
        super().__init__()
        self.upper = nn.ModuleList(encoder.stages()[frozen_stages:])
        self.evidence = encoder.evidence
        self.decoder = decoder

    def memory(self, maps: Tensor, mask: Tensor) -> Memory:
        """Memory of clips from their maps (N, T, C, H, W)."""
        return self.decoder.memory(self.features(maps), mask)

    def regions(self, maps: Tensor) -> Tensor:
        """Features (N, T, R, D) of maps, without evidence."""
        return regions_of(self.upper, maps)

    def features(self, maps: Tensor) -> Tensor:
        """Features (N, T, R, D + E) of maps, with evidence once a read-out wants it."""
        regions = self.regions(maps)
        if self.evidence is None or self.decoder.readout is None:
            return regions
        return torch.cat((regions, self.evidence_of(maps)), -1)

    def evidence_of(self, maps: Tensor) -> Tensor:
        """What the read-out reads, (N, T, R, E), or the tuned features where there is no branch."""
        if self.evidence is None:
            return self.regions(maps)
        return regions_of([self.evidence], maps)

    def train(self, mode: bool = True) -> CaptionerTraining:
        """Train the decoder; the encoder keeps the statistics of its normalisation (frozen BN)."""
        super().train(mode)
        self.upper.eval()
        return self
