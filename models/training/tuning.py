"""Which of the encoder's upper weights learn: all, none, its normalisation, or low-rank parts.

``batchnorm`` trains scale and shift of the normalisation layers alone (Frankle et al. 2021,
Training BatchNorm and Only BatchNorm); ``lora`` adds to each dense convolution and linear layer a
product of two thin matrices (Hu et al. 2022). Both leave the served encoder as it is: affine
parameters are its own, and the products are added into its weights on export.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["TUNINGS", "LowRank", "plain_state", "tune"]

TUNINGS = ("full", "frozen", "batchnorm", "lora")
_NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


class LowRank(nn.Module):
    """Parametrisation of a weight (O, ...): itself plus B A, which begins at zero."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        inputs = weight[0].numel()
        self.a = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.b = nn.Parameter(torch.zeros(len(weight), rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with the product added."""
        return weight + (self.b @ self.a).view_as(weight)


def tune(upper: nn.Module, how: str, rank: int) -> None:
    """Choose in place what of ``upper`` learns.

    Raises:
        ValueError: No tuning has this name, or it finds nothing to train in this encoder.

    """
    if how not in TUNINGS:
        raise ValueError(f"no encoder_tuning is called {how!r}; there are {', '.join(TUNINGS)}")
    if how == "full":
        return
    upper.requires_grad_(False)
    if how == "frozen":
        return
    chosen = list(_norms(upper) if how == "batchnorm" else _dense(upper))
    if not chosen:
        raise ValueError(f"encoder_tuning {how} finds no layer to train above the frozen stages")
    for layer in chosen:
        if how == "batchnorm":
            layer.requires_grad_(True)
        else:
            assert isinstance(layer.weight, Tensor)
            addition = LowRank(layer.weight, rank)
            parametrize.register_parametrization(layer, "weight", addition)


def plain_state(upper: nn.Module) -> dict[str, Tensor]:
    """State under a plain encoder's names, with the low-rank products added into the weights."""
    state = {k: v for k, v in upper.state_dict().items() if ".parametrizations." not in k}
    for name, module in upper.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            assert isinstance(module.weight, Tensor)
            state[f"{name}.weight"] = module.weight.detach()
    return state


def _norms(upper: nn.Module) -> Iterator[nn.Module]:
    for module in upper.modules():
        if isinstance(module, _NORMS) and module.weight is not None:
            yield module


def _dense(upper: nn.Module) -> Iterator[nn.Module]:
    """Linear layers and convolutions that mix all channels; a depthwise filter is thin already."""
    for module in list(upper.modules()):
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
            yield module
