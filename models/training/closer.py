"""``python -m models.training closer``: fit a finished captioner's closer look for small fires.

What it looks at and why stands in :mod:`models.closer_look`. Pictures alone teach it, labelled ones
and others as quiet company; captions, hazard read-out and thresholds stay bit for bit. Folds of
scenes calibrate it (Platt 1999), and its nats are half of a likelihood ratio's: of what it says of
a spot less what pictures like these say before anybody looks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models.captioner import Captioner
from models.checkpoint import CheckpointError, save_checkpoint
from models.closer_look import FIRE, CloserLook, spot_features, warm_spot
from models.encoders import EncoderError
from models.evaluation.evidence import EvidenceCase, EvidenceScore, score_evidence
from models.registry import load_captioner
from models.training.concepts import hazard_labels
from models.training.config import TrainingConfigError, read_config
from models.training.readout import calibrate, fold_of, logistic, readout_samples
from models.training.sources import DataError, Sample, data_root, read_pictures, read_samples
from models.transforms import to_square

__all__ = ["Spots", "fit", "look_closer", "main"]

_FOLDS = 5
_PENALTY = 0.1
_BATCH = 16
_SHARE = 0.5
"""How much of it counts beside the whole picture, which shows the spot as well: with more of it
training timelines of scenes left out have more false alerts (docs/adr/0043)."""


@dataclass(frozen=True)
class Spots:
    """Features of each sample's warm spot, (n, 6 C), and whether it shows a fire, (n,)."""

    samples: list[Sample]
    features: Tensor
    burns: Tensor

    def without_fold(self, fold: int, folds: int) -> Spots:
        """Leave out the scenes of a fold (:func:`models.training.readout.fold_of`)."""
        kept = [n for n, s in enumerate(self.samples) if fold_of(s.scene, folds) != fold]
        return Spots([self.samples[n] for n in kept], self.features[kept], self.burns[kept])


@torch.no_grad()
def look_closer(captioner: Captioner, data: Path, samples: Sequence[Sample], after: int) -> Spots:
    """Look at the warm spot of each picture; those of which no fire is known are left out.

    Raises:
        DataError: There is no such picture, or one that is listed is not there.

    """
    known = {s.key: s for s in samples if not s.clip and hazard_labels(s)[FIRE] is not None}
    seen: list[Sample] = []
    parts: list[Tensor] = []
    pictures = read_pictures(data, 1, known)
    shown = iter(tqdm(pictures, "looking", len(known), unit=" samples", mininterval=10))
    while batch := list(islice(shown, _BATCH)):
        seen += [known[key] for key, _ in batch]
        squares = (to_square(frames[0], captioner.input_size) for _, frames in batch)
        spots = np.stack([warm_spot(square).picture for square in squares])
        pixels = torch.from_numpy(spots).permute(0, 3, 1, 2).to(captioner.device)
        parts.append(spot_features(captioner.encoder.lower(pixels, after).float().cpu()))
    if not seen:
        raise DataError(f"{data}: no picture of these splits is known to show a fire or none")
    burns = torch.tensor([float(hazard_labels(sample)[FIRE] is True) for sample in seen])
    return Spots(seen, torch.cat(parts), burns)


def fit(spots: Spots, channels: int, after: int) -> tuple[CloserLook, Tensor]:
    """Fit a closer look; return it and the nats that folds give each scene left out, (n,).

    Raises:
        DataError: No picture shows a fire, or every one does.

    """
    features, burns = spots.features, spots.burns
    share = float(burns.mean())
    if share in (0.0, 1.0):
        raise DataError("a closer look is fitted on pictures with and without a fire")
    folds = torch.tensor([fold_of(sample.scene, _FOLDS) for sample in spots.samples])
    left_out = torch.zeros(len(burns))
    for fold in range(_FOLDS):
        weights, offset = _fitted(features[folds != fold], burns[folds != fold])
        left_out = torch.where(folds == fold, features @ weights + offset, left_out)
    scale, shift = calibrate(left_out, burns)
    before = torch.logit(torch.tensor(share))
    weights, offset = _fitted(features, burns)
    look = CloserLook(channels, after)
    look.weights.copy_(_SHARE * weights * scale)
    look.offset.copy_(_SHARE * (offset * scale + shift - before))
    return look, _SHARE * (left_out * scale + shift - before)


def _fitted(features: Tensor, burns: Tensor) -> tuple[Tensor, Tensor]:
    return logistic(features, burns, _PENALTY, torch.zeros(len(burns)))


def _told(spots: Spots, nats: Tensor) -> EvidenceScore:
    """AUC within sources of labelled pictures."""
    cases = [
        EvidenceCase({FIRE: found}, frozenset(sample.hazards), sample.scene, sample.source)
        for sample, found in zip(spots.samples, nats.tolist(), strict=True)
        if sample.hazards is not None
    ]
    return score_evidence(cases, [FIRE])[FIRE]


def main(arguments: Sequence[str]) -> None:
    """Parse the command line and fit."""
    parser = argparse.ArgumentParser(prog="python -m models.training closer")
    parser.add_argument("--model", default="default", help="a shipped name or a checkpoint folder")
    parser.add_argument("--data", type=Path, default=data_root(), help="data root")
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("configs/train/default.yaml"),
        help="for frozen_stages, readout_company and seed",
    )
    parser.add_argument(
        "--learns-from", nargs="+", default=["train", "val"], metavar="SPLIT", help="default: both"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the new checkpoint")
    options = parser.parse_args(arguments)
    try:
        config = read_config(options.config)
        captioner = load_captioner(options.model, runtime="eager")
        if FIRE not in captioner.concept_words[: captioner.decoder.config.hazard_count]:
            raise CheckpointError(f"{captioner.identity} has no evidence of a {FIRE} to add to")
        every = [s for s in read_samples(options.data) if s.split in options.learns_from]
        samples = readout_samples(every, config.readout_company, config.seed)
        after = config.frozen_stages
        spots = look_closer(captioner, options.data, samples, after)
        channels = captioner.encoder.channels_after(after)
        captioner.closer, left_out = fit(spots, channels, after)
    except (DataError, TrainingConfigError, CheckpointError, EncoderError) as error:
        parser.error(str(error))
    save_checkpoint(options.output, captioner)
    told = _told(spots, left_out)
    low, high = told.interval or (float("nan"), float("nan"))
    auc = float("nan") if told.auc is None else told.auc
    print(
        f"{options.output}: {told.visible} of {told.visible + told.absent} pictures burn; by "
        f"the spot alone, scenes left out, AUC within sources {auc:.2f} ({low:.2f} to {high:.2f})"
    )
