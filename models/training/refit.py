"""``python -m models.training readout``: fit the hazard read-out of a finished captioner anew.

More labelled scenes, or a better recipe, need no new training of captions: the read-out stands
beside them, is fitted in one go, and reads an evidence branch of its own. Captioner, vocabulary and
concepts stay as they are, bit for bit; the branch becomes the encoder's starting weights (what
training does with ``encoder_blend: 0``), which know no scene, so that what the read-out says of
scenes left out is what it will say of new ones. ``out-of-fold.jsonl`` beside the checkpoint holds
that; the table printed is made of it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from models.captioner import Captioner
from models.checkpoint import CheckpointError, save_checkpoint
from models.concepts import HazardReadout
from models.encoders import EncoderError, build_encoder, load_imagenet_weights
from models.evaluation.evidence import EvidenceCase, score_evidence
from models.grounding import people_thresholds
from models.registry import load_captioner
from models.training.concepts import HAZARD_CONCEPTS
from models.training.config import TrainingConfig, TrainingConfigError, read_config
from models.training.readout import (
    OutOfFold,
    ReadoutTable,
    choose_thresholds,
    fit_table,
    readout_samples,
)
from models.training.sources import DataError, Sample, data_root, read_pictures, read_samples
from models.transforms import to_square

__all__ = ["begin_evidence_anew", "look_at", "main", "refit"]


def begin_evidence_anew(captioner: Captioner) -> Captioner:
    """Give the evidence branch the encoder's starting weights.

    The branch is kept in eight bits, and the read-out is to be fitted on what will be served: so it
    is stored and read once, where nobody takes it for a finished checkpoint.

    Raises:
        CheckpointError: The captioner has no evidence branch.
        EncoderError: The starting weights cannot be had.

    """
    encoder = captioner.encoder
    if encoder.evidence is None:
        raise CheckpointError(
            f"{captioner.identity} has no evidence branch: say --keep-branch to read the features "
            "that captions are made of"
        )
    start = build_encoder(encoder.name)
    load_imagenet_weights(start)
    start.attach_evidence(encoder.evidence.lower_stages)
    assert start.evidence is not None  # just attached
    encoder.evidence.load_state_dict(start.evidence.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), captioner)
        return load_captioner(folder)


def look_at(
    captioner: Captioner, data: Path, samples: Sequence[Sample], *, mirrored: bool = True
) -> ReadoutTable:
    """Pool what the read-out reads of each sample and, in a row of its own, of its mirror image."""
    by_key = {sample.key: sample for sample in samples}

    def shown() -> Iterator[tuple[Sample, Tensor]]:
        pictures = read_pictures(data, captioner.decoder.config.window_frames, by_key)
        progress = tqdm(pictures, "looking", len(by_key), unit=" samples", mininterval=10)
        for key, frames in progress:
            squares = np.stack([to_square(frame, captioner.input_size) for frame in frames])
            for view in (squares, squares[:, :, ::-1])[: 1 + mirrored]:
                yield by_key[key], captioner.decoder.evidence(captioner.encode(view))

    return ReadoutTable.of(shown())


def refit(captioner: Captioner, table: ReadoutTable, config: TrainingConfig) -> OutOfFold:
    """Fit a captioner's read-out and choose its thresholds in place; return what folds say.

    Whether the decoder goes by the read-out stays as it is.
    """
    decoder = captioner.decoder
    size = decoder.config.evidence_size or decoder.config.feature_size
    readout = HazardReadout(size, len(HAZARD_CONCEPTS))
    out_of_fold = fit_table(readout, table)
    decoder.attach(readout.to(captioner.device), decoder.config.hazards_condition)
    samples = list({sample.key: sample for sample in table.rows}.values())
    thresholds = choose_thresholds(
        samples,
        out_of_fold,
        config.false_hazards,
        config.missed_hazards,
        config.hazard_cost,
    )
    thresholds |= people_thresholds(config.people_deny)
    captioner.concepts = replace(captioner.concepts, thresholds=thresholds)
    return out_of_fold


def _table_of(samples: Sequence[Sample], out_of_fold: OutOfFold) -> str:
    """AUC within sources of what is said of scenes left out: of pictures, and of clips."""
    lines = ["| hazard | shown in | AUC within sources | 95 % by scene |", "|---|---|---|---|"]
    for kind, clips in (("pictures", False), ("clips", True)):
        cases = [
            EvidenceCase(
                dict(zip(HAZARD_CONCEPTS, out_of_fold[sample.key].tolist(), strict=True)),
                frozenset(sample.hazards),
                sample.scene,
                sample.source,
            )
            for sample in samples
            if sample.hazards is not None and sample.clip is clips
        ]
        for hazard, score in score_evidence(cases, HAZARD_CONCEPTS).items():
            if score.auc is not None:
                low, high = score.interval or (float("nan"), float("nan"))
                shown = f"{score.visible} of {score.visible + score.absent} {kind}"
                lines.append(f"| {hazard} | {shown} | {score.auc:.2f} | {low:.2f} to {high:.2f} |")
    return "\n".join(lines)


def _lines(samples: Sequence[Sample], out_of_fold: OutOfFold) -> Iterator[str]:
    for sample in samples:
        probabilities = out_of_fold[sample.key].tolist()
        said = {h: round(p, 6) for h, p in zip(HAZARD_CONCEPTS, probabilities, strict=True)}
        yield json.dumps({"key": sample.key, "scene": sample.scene, "probabilities": said}) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Parse the command line and fit."""
    parser = argparse.ArgumentParser(prog="python -m models.training readout")
    parser.add_argument("--model", default="default", help="a shipped name or a checkpoint folder")
    parser.add_argument("--data", type=Path, default=data_root(), help="data root")
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("configs/train/default.yaml"),
        help="for false_hazards, missed_hazards, readout_company and seed",
    )
    parser.add_argument(
        "--learns-from", nargs="+", default=["train", "val"], metavar="SPLIT", help="default: both"
    )
    parser.add_argument(
        "--keep-branch", action="store_true", help="read the evidence branch as it is"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the new checkpoint")
    options = parser.parse_args(arguments)
    try:
        config = read_config(options.config)
        captioner = load_captioner(options.model)
        every = [s for s in read_samples(options.data) if s.split in options.learns_from]
        samples = readout_samples(every, config.readout_company, config.seed)
        if not options.keep_branch:
            captioner = begin_evidence_anew(captioner)
        out_of_fold = refit(captioner, look_at(captioner, options.data, samples), config)
    except (DataError, TrainingConfigError, CheckpointError, EncoderError) as error:
        parser.error(str(error))
    save_checkpoint(options.output, captioner)
    if captioner.closer is not None:
        print("its closer look is kept; the thresholds of fire were chosen without it")
    (options.output / "out-of-fold.jsonl").write_text("".join(_lines(samples, out_of_fold)))
    print(_table_of(samples, out_of_fold))
