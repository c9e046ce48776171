"""Learning from other captioners: word by word, from the mean of what they would have said next.

Hinton et al. 2015 (Distilling the Knowledge in a Neural Network), section 3, on the references'
words. Teachers see the very view that the pupil sees (Beyer et al. 2022, Knowledge distillation: a
good teacher is patient and consistent).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from models.captioner import Captioner
from models.checkpoint import load_checkpoint
from models.training.sources import DataError
from models.vocabulary import PAD, Vocabulary

__all__ = ["Teachers", "distillation_loss"]


class Teachers(nn.Module):
    """Captioners of one vocabulary over one frozen lower encoder."""

    def __init__(
        self, checkpoints: Sequence[Path], vocabulary: Vocabulary, stages: int, device: torch.device
    ) -> None:
        super().__init__()
        loaded = [load_checkpoint(path, path.name, device) for path in checkpoints]
        for path, captioner in zip(checkpoints, loaded, strict=True):
            if captioner.vocabulary.words != vocabulary.words:
                raise DataError(f"{path}: a teacher needs the vocabulary of the data it teaches")
        self._captioners = loaded
        self._stages = stages

    @torch.no_grad()
    def forward(self, maps: Tensor, mask: Tensor, tokens: Tensor, hazards: Tensor | None) -> Tensor:
        """Mean probability of each next word, (N, K, L - 1, V), for maps (N, T, C, H, W)."""
        said = [self._said(one, maps, mask, tokens, hazards) for one in self._captioners]
        return torch.stack(said).mean(0)

    def _said(
        self,
        captioner: Captioner,
        maps: Tensor,
        mask: Tensor,
        tokens: Tensor,
        hazards: Tensor | None,
    ) -> Tensor:
        features = captioner.encoder.upper(maps.flatten(0, 1), self._stages)
        features = features.view(*maps.shape[:2], *features.shape[1:])
        if captioner.decoder.readout is None:
            hazards = None
        memory = captioner.decoder.memory(features, mask, hazards)
        logits, _ = captioner.decoder(memory, tokens)
        probabilities: Tensor = logits.float().softmax(-1)
        return probabilities


def distillation_loss(logits: Tensor, tokens: Tensor, taught: Tensor) -> Tensor:
    """Cross-entropy of (N, K, L - 1, V) logits against taught probabilities, mean of real words."""
    real = tokens[:, :, 1:] != PAD
    each = -(taught * logits.float().log_softmax(-1)).sum(-1)
    return (each * real).sum() / real.sum()
