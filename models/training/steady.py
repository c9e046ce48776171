"""``python -m models.training steady``: an encoder that sees in bad pictures what is in good ones.

The captioner is its own teacher. Of a picture as a bad camera takes it, the encoder's upper stages
learn to see what they saw of the clean one, told by what the decoder reads of it: the values that
it attends to, and the visual concepts (stability training, Zheng et al. 2016, Improving the
robustness of deep neural networks via stability training). A few clean pictures are in every
batch, and the end lies between the old weights and the new (Wortsman et al. 2022, Robust
fine-tuning of zero-shot models), so that little is forgotten. Captions are not needed, decoder and
hazard evidence stay bit for bit.
"""

from __future__ import annotations

import argparse
import copy
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from models.captioner import Captioner
from models.checkpoint import CheckpointError, save_checkpoint
from models.decoders import Decoder
from models.encoders import EncoderError
from models.registry import load_captioner
from models.training.config import TrainingConfigError, read_config
from models.training.corruptions import CORRUPTIONS, corrupt
from models.training.features import FeatureCache, build_cache, open_cache
from models.training.sources import DataError, data_root, pictures_digest, read_samples
from models.training.steps import has_fast_bfloat16
from models.training.trained import regions_of

__all__ = ["bad_view", "main", "steady"]

_VIEWS = 4
_INFRARED_SHARE = 0.5
_WORST = 4
# Both see the same things in the same places: what changes the perspective is left out.
_OTHERS = tuple(name for name in CORRUPTIONS if name not in ("infrared", "off_angle"))
_BATCH = 32
_CLEAN = 8
"""Of a batch's pictures so many are looked at without their fault too."""
_CONCEPTS_WEIGHT = 0.02
_AVERAGE_DECAY = 0.998


def bad_view(
    picture: NDArray[np.uint8], number: int, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Return (H, W, 3) as a bad camera takes it, mirrored where ``number`` is odd.

    Half of the time infrared, which costs captions most, else any corruption that leaves
    everything in its place; severities 1 to 4.
    """
    infrared = random.random() < _INFRARED_SHARE
    name = "infrared" if infrared else str(random.choice(_OTHERS))
    plain = picture[:, ::-1] if number % 2 else picture
    return corrupt(name, np.ascontiguousarray(plain), int(random.integers(1, _WORST + 1)), random)


def steady(
    captioner: Captioner,
    cache: FeatureCache,
    epochs: int,
    learning_rate: float,
    seed: int,
    state: Path | None = None,
    share: float = 1.0,
) -> None:
    """Train the encoder's upper stages in place on a cache of clean and bad views.

    Args:
        captioner: On the device to train on.
        cache: Of the captioner's lower stages; view 0 clean, 1 mirrored, others :func:`bad_view`.
        epochs: Each shows every picture, or one frame of a clip, in one bad view.
        learning_rate: The highest, at the start; it falls to a twentieth of it.
        seed: Fixes order and views.
        state: File that each epoch is kept in; what is there already is gone on from, and the end
            is that of an unbroken run.
        share: Where between the weights as they were (0) and as they were trained (1) to end.

    """
    upper = nn.ModuleList(captioner.encoder.stages()[cache.stages :]).eval()
    before = copy.deepcopy(upper).requires_grad_(requires_grad=False)
    average = copy.deepcopy(before)
    upper.requires_grad_(requires_grad=True)
    decoder = captioner.decoder.eval().requires_grad_(requires_grad=False)
    optimizer = torch.optim.AdamW(upper.parameters(), lr=learning_rate, weight_decay=1e-2)
    kept: dict[str, Any] = {"upper": upper, "average": average, "optimizer": optimizer}
    first = _resumed(state, kept)
    each = len(cache.index) // _BATCH or 1
    progress = tqdm(
        total=epochs * each,
        initial=first * each,
        desc="steadying",
        unit=" batches",
        mininterval=10,
    )
    for epoch in range(first, epochs):
        order = random.Random(f"{seed}/{epoch}")
        keys = sorted(cache.index)
        order.shuffle(keys)
        for step in range(each):
            done = epoch * each + step
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - 0.95 * done / (epochs * each))
            chosen = keys[step * _BATCH : (step + 1) * _BATCH]
            clean, bad = _pairs(cache, chosen, order, captioner.device)
            loss = _unlikeness(decoder, before, upper, clean, bad)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            progress.update()
            _move(average, upper, 1 - min(_AVERAGE_DECAY, (done + 1) / (done + 11)))
            if step % 20 == 0:
                progress.set_postfix(loss=f"{float(loss.detach()):.4f}")
        _keep(state, epoch + 1, kept)
    upper.load_state_dict(before.state_dict())
    _move(upper, average, share)


def _keep(state: Path | None, epochs: int, kept: dict[str, Any]) -> None:
    """Write what is kept, and how many epochs are done, in place of what was there."""
    if state is not None:
        told = {name: part.state_dict() for name, part in kept.items()}
        torch.save({"epoch": epochs, **told}, state.with_suffix(".tmp"))
        state.with_suffix(".tmp").replace(state)


def _resumed(state: Path | None, kept: dict[str, Any]) -> int:
    """Fill what is kept from the file, where there is one; returns the epochs that are done."""
    if state is None or not state.is_file():
        return 0
    told = torch.load(state, weights_only=True)
    for name, part in kept.items():
        part.load_state_dict(told[name])
    return int(told["epoch"])


@torch.no_grad()
def _move(weights: nn.ModuleList, towards: nn.ModuleList, share: float) -> None:
    """Move weights in place a share of the way, 0 to 1, towards others."""
    for mine, theirs in zip(weights.parameters(), towards.parameters(), strict=True):
        mine.lerp_(theirs, share)


def _pairs(
    cache: FeatureCache, keys: Sequence[str], order: random.Random, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Maps (N, 1, C, H, W) of one frame of each key, clean and in a bad view of the same side."""
    clean, bad = [], []
    for key in keys:
        view = order.randrange(2, cache.views)
        frame = order.randrange(cache.frame_count(key))
        clean.append(cache.frames(key, view % 2)[frame])
        bad.append(cache.frames(key, view)[frame])
    return _stacked(clean, device), _stacked(bad, device)


def _stacked(maps: Sequence[NDArray[np.float16]], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(maps)).float().to(device).unsqueeze(1)


def _unlikeness(
    decoder: Decoder, before: nn.ModuleList, upper: nn.ModuleList, clean: Tensor, bad: Tensor
) -> Tensor:
    """How far what is seen of bad pictures is from what was seen of them when they were clean."""
    with torch.autocast(clean.device.type, torch.bfloat16, enabled=has_fast_bfloat16()):
        with torch.no_grad():
            known = regions_of(before, clean)
        seen = regions_of(upper, torch.cat((bad, clean[:_CLEAN])))
    values, concepts = _read(decoder, seen.float())
    with torch.no_grad():
        told = _read(decoder, known.float())
        wanted, named = (torch.cat((part, part[:_CLEAN])) for part in told)
    loss = F.mse_loss(values, wanted)
    if concepts.shape[1]:
        apart = F.binary_cross_entropy(concepts, named, reduction="none").sum(1).mean()
        loss = loss + _CONCEPTS_WEIGHT * apart
    return loss


def _read(decoder: Decoder, features: Tensor) -> tuple[Tensor, Tensor]:
    """What the decoder reads of frames (N, 1, R, D): values, and probabilities of concepts."""
    look = decoder.look(features)
    if decoder.concepts is None:
        return look.values, features.new_zeros(len(features), 0)
    mask = torch.ones(len(features), 1, dtype=torch.bool, device=features.device)
    return look.values, decoder.concepts.judge(look.concepts, mask).clamp(1e-6, 1 - 1e-6)


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, build the cache, train and save."""
    parser = argparse.ArgumentParser(prog="python -m models.training steady")
    parser.add_argument("--model", default="default", help="a shipped name or a checkpoint folder")
    parser.add_argument("--data", type=Path, default=data_root(), help="data root")
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("configs/train/default.yaml"),
        help="for frozen_stages, learns_from, frames_per_clip and seed",
    )
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument(
        "--share", type=float, default=0.7, help="how far to go from the old weights to the new"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the new checkpoint")
    options = parser.parse_args(arguments)
    try:
        config = read_config(options.config)
        captioner = load_captioner(options.model, runtime="eager")
        every = read_samples(options.data, config.data_sets)
        wanted = {s.key for s in every if s.split in config.learns_from}
        settings = replace(config.cache, encoder=captioner.encoder.name, views=_VIEWS)
        settings = replace(settings, side=captioner.input_size)
        folder = options.output / "maps"
        try:
            cache = open_cache(folder)
            pictures = pictures_digest(options.data, config.data_sets)
            if set(cache.index) != wanted or cache.pictures != pictures:
                raise DataError(
                    f"{folder} holds the maps of other pictures than are there now "
                    f"({len(cache.index)}, and {len(wanted)}); name another --output, or delete it"
                )
        except FileNotFoundError:
            cache = build_cache(
                options.data,
                folder,
                settings,
                encoder=captioner.encoder,
                view=bad_view,
                wanted=wanted,
            )
        state = options.output / "state.pt"
        steady(
            captioner,
            cache,
            options.epochs,
            options.learning_rate,
            config.seed,
            state,
            options.share,
        )
    except (DataError, TrainingConfigError, CheckpointError, EncoderError) as error:
        parser.error(str(error))
    save_checkpoint(options.output, captioner)
    print(f"{options.output}: {len(cache.index)} pictures and clips, {options.epochs} epochs")
