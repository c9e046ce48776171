"""Maps of pictures that lie in memory: every view is another, made on the device that trains.

The cache (:mod:`models.training.features`) gives each picture the same few views in every epoch,
which is what a CPU can afford. A GPU makes new ones faster than it can learn from them, and what
never comes twice is not learnt by heart. The corruptions are those of
:mod:`models.training.corruptions`, whole batches at a time; JPEG's is rounded coefficients of
8 x 8 blocks, and rain and overlays are left to the cache.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from models.encoders import Encoder, build_encoder, load_imagenet_weights
from models.training.config import TrainingConfig
from models.training.graphed import Graphed
from models.training.sources import read_pictures
from models.transforms import to_square

__all__ = ["LiveMaps", "camera_views"]

_KERNEL = 13
"""Pixels of the largest blur's side."""


class LiveMaps:
    """Pictures and clips by key, (T, 3, S, S) uint8; views 0 and 1 are plain and mirrored.

    Attributes:
        views: How many kinds of views there are to draw from; those from 2 on are as another
            camera might have taken them, and new each time.

    """

    def __init__(
        self,
        squares: dict[str, Tensor],
        encoder: Encoder,
        stages: int,
        views: int,
        device: torch.device,
    ) -> None:
        self._squares = {key: square.to(device) for key, square in squares.items()}
        self._encoder, self._stages, self._device = encoder.eval().to(device), stages, device
        self._lower = Graphed(self._run_lower, device)
        self.views = views

    @classmethod
    def read(
        cls,
        root: Path,
        keys: Collection[str],
        config: TrainingConfig,
        encoder: Encoder | None = None,
    ) -> LiveMaps:
        """Read pictures and clips below ``root`` by key into memory, on CUDA where there is one.

        Raises:
            DataError: A file cannot be read.
            EncoderError: The encoder's starting weights cannot be had.

        """
        squares = {}
        pictures = read_pictures(root, config.frames_per_clip, keys)
        for key, frames in tqdm(pictures, "reading", unit=" pictures", mininterval=10):
            same = [torch.from_numpy(to_square(f, config.input_size).copy()) for f in frames]
            squares[key] = torch.stack(same).permute(0, 3, 1, 2).contiguous()
        if encoder is None:
            encoder = build_encoder(config.encoder)
            load_imagenet_weights(encoder)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(squares, encoder, config.frozen_stages, config.views, device)

    def frame_count(self, key: str) -> int:
        """How many frames a key has."""
        return len(self._squares[key])

    @torch.no_grad()
    def maps(self, keys: Sequence[str], views: Sequence[int]) -> Tensor:
        """Maps (N, T, C, H, W) float32 of keys with equally many frames, each in its view."""
        pixels = torch.stack([self._squares[key] for key in keys]).float()
        other = torch.tensor([view > 1 for view in views])
        mirrored = torch.tensor([view == 1 for view in views])
        pixels[mirrored] = pixels[mirrored].flip(-1)
        if other.any():
            pixels[other] = camera_views(pixels[other])
        maps = self._lower(pixels.flatten(0, 1))
        return maps.view(*pixels.shape[:2], *maps.shape[1:]).clone()

    @torch.no_grad()
    def _run_lower(self, pixels: Tensor) -> Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=pixels.is_cuda):
            return self._encoder.lower(pixels, self._stages).float()


def camera_views(pixels: Tensor) -> Tensor:
    """Return clips (N, T, 3, S, S), 0 to 255, as other cameras might have taken them.

    One camera takes all frames of a clip: a crop of at least 60 % of the area, mirrored half the
    time, a little askew; another brightness and colour; and for every second clip one corruption of
    severity 1 to 3. Randomness is torch's, so its seed fixes the views.
    """
    count, frames = pixels.shape[:2]
    flat = pixels.flatten(0, 1)
    grid = _where_it_looks(count, flat.shape[-1], pixels.device).repeat_interleave(frames, 0)
    seen = F.grid_sample(flat, grid, padding_mode="border", align_corners=False).view_as(pixels)
    gain = _uniform((count, 1, 3, 1, 1), 0.8, 1.2) * _uniform((count, 1, 1, 1, 1), 0.8, 1.2)
    shift = _uniform((count, 1, 1, 1, 1), -20, 20)
    seen = seen * gain.to(pixels.device) + shift.to(pixels.device)
    kinds = torch.randint(2 * len(_CORRUPTIONS), (count,))
    severity = torch.randint(1, 4, (count, 1, 1, 1, 1)).to(pixels)
    for kind, corruption in enumerate(_CORRUPTIONS):
        chosen = kinds == kind
        if chosen.any():
            seen[chosen] = corruption(seen[chosen].clamp(0, 255), severity[chosen])
    return seen.clamp(0, 255)


def _where_it_looks(count: int, side: int, device: torch.device) -> Tensor:
    """Where each view looks, (N, S, S, 2) from -1 to 1: cropped, mirrored, and askew."""
    area, aspect = _uniform((count,), 0.6, 1.0), _uniform((count,), -0.25, 0.25).exp()
    high, wide = (area / aspect).sqrt().clamp_max(1), (area * aspect).sqrt().clamp_max(1)
    size = torch.stack((wide, high), -1)
    centre = (1 - size) * _uniform((count, 2), -1, 1)
    size[:, 0] *= torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    askew = _uniform((count, 1, 1, 2), -0.1, 0.1)
    # Only now to the device: the grid is 65,536 times what it is drawn from.
    plain = torch.eye(2, 3, device=device).expand(1, 2, 3)
    grid = F.affine_grid(plain, [1, 1, side, side], align_corners=False)
    depth = 1 + (grid * askew.to(device)).sum(-1, keepdim=True)
    size, centre = size[:, None, None].to(device), centre[:, None, None].to(device)
    return grid * size / depth + centre


def _low_light(seen: Tensor, severity: Tensor) -> Tensor:
    dark = 255 * (seen / 255) ** (1 + 0.4 * severity) * (1 - 0.12 * severity)
    return dark + torch.randn_like(seen) * 2.5 * severity


def _infrared(seen: Tensor, severity: Tensor) -> Tensor:
    """Night view: grey, washed out, brighter in the middle where the lamps point."""
    weights = torch.tensor((0.299, 0.587, 0.114), device=seen.device).view(3, 1, 1)
    grey = (seen * weights).sum(2, keepdim=True)
    line = torch.linspace(-1, 1, seen.shape[-1], device=seen.device)
    lamp = 1 - 0.12 * severity * (line.square() + line.square().unsqueeze(1))
    lit = (grey - 128) * (1 - 0.08 * severity) + 128 * lamp
    return (lit + torch.randn_like(lit) * severity).expand_as(seen)


def _noise(seen: Tensor, severity: Tensor) -> Tensor:
    return seen + torch.randn_like(seen) * 6 * severity


def _blur(seen: Tensor, severity: Tensor) -> Tensor:
    sigma = 0.35 * severity.view(-1, 1, 1) * seen.shape[-1] / 256
    line = torch.arange(_KERNEL, device=seen.device) - _KERNEL // 2
    distance = line.square() + line.square().unsqueeze(1)
    return _filtered(seen, (-distance / (2 * sigma.square())).exp())


def _motion_blur(seen: Tensor, severity: Tensor) -> Tensor:
    half = (0.5 + severity.view(-1, 1, 1)) * seen.shape[-1] / 256
    turn = (torch.rand(len(seen), 1, 1) * math.pi).to(seen)
    line = torch.arange(_KERNEL, device=seen.device) - _KERNEL // 2
    along = line * turn.cos() + line.unsqueeze(1) * turn.sin()
    across = line.unsqueeze(1) * turn.cos() - line * turn.sin()
    return _filtered(seen, (1 - across.abs()).clamp_min(0) * (along.abs() <= half))


def _jpeg(seen: Tensor, severity: Tensor) -> Tensor:
    """Coefficients of 8 x 8 blocks (ISO/IEC 10918-1) rounded to steps that grow with frequency."""
    at = torch.arange(8, device=seen.device)
    basis = torch.cos(math.pi / 8 * (at + 0.5) * at.unsqueeze(1)) * math.sqrt(2 / 8)
    basis[0] /= math.sqrt(2)
    height, width = seen.shape[-2:]
    # Whole blocks, as JPEG has them: what the last lacks repeats the edge.
    whole = F.pad(seen.flatten(0, 1), (0, -width % 8, 0, -height % 8), mode="replicate")
    rows, columns = whole.shape[-2] // 8, whole.shape[-1] // 8
    blocks = whole.reshape(*seen.shape[:-2], rows, 8, columns, 8).transpose(-3, -2)
    coefficients = basis @ blocks @ basis.T
    step = (4 + 3 * (at + at.unsqueeze(1))) * (1 + severity)[..., None, None]
    rounded = (coefficients / step).round() * step
    pixels = (basis.T @ rounded @ basis).transpose(-3, -2)
    return pixels.reshape(*seen.shape[:-2], 8 * rows, 8 * columns)[..., :height, :width]


# Infrared thrice: cameras see so all night, and it costs captions most.
_CORRUPTIONS = (_low_light, *[_infrared] * 3, _noise, _blur, _motion_blur, _jpeg)


def _filtered(seen: Tensor, kernels: Tensor) -> Tensor:
    """Each clip (T, 3, S, S) of N filtered by its own kernel of (N, K, K), edges repeated."""
    kernels = kernels / kernels.sum((-2, -1), keepdim=True)
    planes = seen.shape[1] * seen.shape[2]
    margin = [_KERNEL // 2] * 4
    padded = F.pad(seen.flatten(1, 2), margin, mode="replicate").flatten(0, 1).unsqueeze(0)
    each = kernels.repeat_interleave(planes, 0).unsqueeze(1)
    return F.conv2d(padded, each, groups=len(each)).view_as(seen)


def _uniform(shape: tuple[int, ...], low: float, high: float) -> Tensor:
    return torch.empty(shape).uniform_(low, high)
