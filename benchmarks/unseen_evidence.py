"""Hazard evidence on timelines as it would be on scenes the model has never seen.

    python -m benchmarks.unseen_evidence FOLDER [--model NAME] [--split train] [--at-most 16]

The shipped read-out was fitted on all labelled scenes, and what it says of them is far too good to
choose thresholds by (on 24 training timelines every fight and fire is told from everything else).
So it is fitted again without one fold of scenes, once for each of three folds, as the trainer
fits it, and each window of a timeline is judged by the one that has not seen its scene; so is the
closer look for small fires, where the checkpoint has one. An upper
encoder that has learned from these scenes still flatters; one of the starting weights has not.

Timelines are those of `benchmarks.alerts` with the same `--split`; frames are looked at and
windows captioned as often as the program does by default. FOLDER then holds `captions-0000.jsonl`
and `labels.jsonl` as `benchmarks.alerts --keep` writes them, but with captions that say nothing:
what counts is the evidence. `python -m benchmarks.alert_thresholds FOLDER` chooses by it; `rules
calibrate` reads it too, and `python -m benchmarks.alerts --captions FOLDER` with the same split,
hazards and `--at-most` says what the rules make of it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.alerts import chosen, labels
from benchmarks.timelines import FPS, Timeline, frames, plan, unpack
from models import load_captioner
from models.captioner import Captioner
from models.closer_look import FIRE, POSSIBLE, CloserLook, warm_spot
from models.concepts import HazardReadout
from models.training.closer import fit, look_closer
from models.training.concepts import HAZARD_CONCEPTS
from models.training.readout import fit_without_folds, fold_of, readout_samples
from models.training.refit import look_at
from models.training.sources import data_root, read_samples
from models.transforms import to_square
from pipeline.batcher import WindowSchedule
from pipeline.config import CaptureConfig
from pipeline.frame_clock import Ticks
from pipeline.messages import FrameStamp

FOLDS = 3
HAZARDS = ("fire", "fight", "person_down", "crash", "smoke")
SAYS_NOTHING = "a scene"
_BATCH = 16
_COMPANY = 500
"""Unlabelled pictures that the read-out is fitted on too; the trainer takes three times as many."""
_START = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame that the program would look at: when, in which scene, and its square."""

    time_s: float
    scene: str
    square: NDArray[np.uint8]


Judge = tuple[HazardReadout, CloserLook | None]


def unseen_judges(captioner: Captioner, data: Path, seed: int) -> list[Judge]:
    """One read-out, and one closer look, for each fold of scenes, fitted without it."""
    learnt = [sample for sample in read_samples(data) if sample.split in ("train", "val")]
    samples = readout_samples(learnt, _COMPANY, seed)
    table = look_at(captioner, data, samples, mirrored=False)
    sys.stderr.write(f"fitting {FOLDS} read-outs on {len(samples)} samples\n")
    readouts = fit_without_folds(table, FOLDS)
    if captioner.closer is None:
        return [(readout, None) for readout in readouts]
    after = captioner.closer.after
    spots = look_closer(captioner, data, samples, after)
    channels = captioner.encoder.channels_after(after)
    closer = (fit(spots.without_fold(fold, FOLDS), channels, after)[0] for fold in range(FOLDS))
    return list(zip(readouts, closer, strict=True))


def looked_at(timeline: Timeline, side: int, seed: int) -> Iterator[Seen]:
    """Frames of a timeline that are looked at, at the default rate."""
    sampler = Ticks(CaptureConfig().analysis_fps)
    order = random.Random(f"{seed} {timeline.name}")
    number = 0
    for segment in timeline.segments:
        for frame in frames(segment, order):
            if sampler.take(number / FPS):
                square = to_square(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), side)
                yield Seen(number / FPS, segment.footage.scene, square)
            number += 1


def evidence(
    timeline: Timeline, captioner: Captioner, judges: Sequence[Judge], seed: int
) -> Iterator[dict[str, Any]]:
    """Caption lines of a timeline, with the probability of each hazard in each window."""
    seen = list(looked_at(timeline, captioner.input_size, seed))
    chunks = [seen[first : first + _BATCH] for first in range(0, len(seen), _BATCH)]
    encoded = [captioner.encode(np.stack([frame.square for frame in chunk])) for chunk in chunks]
    features = captioner.decoder.evidence(torch.cat(encoded)).float()
    schedule = WindowSchedule(CaptureConfig().captions_per_second)
    longest = captioner.decoder.config.window_frames
    for number, frame in enumerate(seen):
        at = _START + timedelta(seconds=frame.time_s)
        if not schedule.due(FrameStamp(timeline.name, number, at, 0, frame.time_s)):
            continue
        window = features[max(0, number + 1 - longest) : number + 1]
        readout, closer = judges[fold_of(frame.scene, len(judges))]
        with torch.inference_mode():
            mask = torch.ones(1, len(window), dtype=torch.bool)
            concepts = dict(zip(HAZARD_CONCEPTS, readout(window[None], mask)[0], strict=True))
            if closer is not None and concepts[FIRE] >= POSSIBLE:
                spot = torch.from_numpy(warm_spot(frame.square).picture).permute(2, 0, 1)[None]
                maps = captioner.encoder.lower(spot.to(captioner.device), closer.after).cpu()
                concepts[FIRE] = closer.weigh(concepts[FIRE], closer(maps)[0])
        yield _line(timeline.name, number, at, frame.time_s, concepts)


def _line(
    camera: str, number: int, at: datetime, time_s: float, concepts: Mapping[str, Tensor]
) -> dict[str, Any]:
    return {
        "type": "caption",
        "camera": camera,
        "sequence": number,
        "time": at.isoformat(),
        "media_time_s": time_s,
        "text": SAYS_NOTHING,
        "probability": 0.5,
        "concepts": {hazard: round(float(p), 6) for hazard, p in concepts.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where captions and labels are written")
    parser.add_argument("--model", default="default", help="a checkpoint")
    parser.add_argument("--split", choices=("train", "val"), default="train")
    parser.add_argument("--hazards", default=",".join(HAZARDS))
    parser.add_argument("--at-most", type=int, default=16, help="timelines of each kind")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    data = data_root()
    captioner = load_captioner(options.model)
    judges = unseen_judges(captioner, data, options.seed)
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as unpacked:
        unpack(data, Path(unpacked))
        hazards = options.hazards.split(",")
        every = plan(data, Path(unpacked), options.split, hazards, options.seed)
        timelines = chosen(every, options.at_most, options.seed)
        lines = [json.dumps(label) + "\n" for label in labels(timelines)]
        (options.folder / "labels.jsonl").write_text("".join(lines), "utf-8")
        with (options.folder / "captions-0000.jsonl").open("w", encoding="utf-8") as file:
            for done, timeline in enumerate(timelines, 1):
                for line in evidence(timeline, captioner, judges, options.seed):
                    file.write(json.dumps(line) + "\n")
                if done % 20 == 0 or done == len(timelines):
                    sys.stderr.write(f"{done} of {len(timelines)} timelines\n")


if __name__ == "__main__":
    main()
