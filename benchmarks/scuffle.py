"""How well motion tells fights of scenes left out, and what a rule makes of it.

    python -m benchmarks.scuffle [--learns-from train]
    python -m benchmarks.unseen_evidence FOLDER --hazards fight --at-most 60
    python -m benchmarks.scuffle --rules-on FOLDER --at-most 60

The first fits the weights of `pipeline/scuffle.py` on the labelled clips (a row a clip, its looks'
mean; logistic regression with the read-out's folds of scenes), says how well scenes left out are
told, and prints the weights as they stand there. The last puts into the captions of FOLDER what
motion says of scenes left out, writes them to FOLDER/moving, and replays the rule `fight` with
thresholds and confirmations of its `where_known`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.alert_scores import score, started_of
from benchmarks.alerts import SHIPPED_RULES, chosen
from benchmarks.timelines import FPS, Timeline, frames, plan, unpack
from models.training.readout import fold_of, logistic
from models.training.sources import data_root
from pipeline.alerts import encode_alert
from pipeline.config import CaptureConfig
from pipeline.frame_clock import Ticks
from pipeline.rules import RuleSet, load_rules, read_captions, replay
from pipeline.rules.schema import Confirm, WhereKnown
from pipeline.scuffle import (
    BEFORE_S,
    SCUFFLE,
    Grey,
    motion_picture,
    probability_of,
    scuffle_numbers,
)

PENALTY = 0.01
FOLDS = 5
LOOKS = 5  # of a window
LEAST_OF_MOTION = (0.7, 0.75, 0.8, 0.825, 0.85, 0.875, 0.9)
LEAST_OF_PICTURES = (0.0, 0.1, 0.17, 0.25)
CONFIRMATIONS = ((2, 3, 5.0), (3, 4, 6.0), (3, 5, 8.0), (4, 6, 8.0), (5, 7, 10.0))


@dataclass(frozen=True, slots=True)
class Clip:
    """A labelled clip: its scene, whether people fight, and the mean of its looks' numbers."""

    scene: str
    split: str
    fight: bool
    numbers: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Fit:
    """Weights and offset of a logistic regression."""

    weights: Tensor
    offset: float

    def log_odds(self, numbers: Sequence[float]) -> float:
        """Score one look, or the mean of several."""
        return float(self.weights @ torch.tensor(numbers)) + self.offset


def read_clips(data: Path, unpacked: Path) -> Iterator[Clip]:
    """Look at every clip, ten times a second."""
    with (data / "surveillance" / "captions.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    for row in rows:
        if "clip" in row:
            greys, rate = read_greys(unpacked / "clips" / row["clip"])
            step = max(1, round(rate * BEFORE_S))
            numbers = [
                scuffle_numbers(greys[at - step], greys[at], step / rate)
                for at in range(step, len(greys), step)
            ]
            mean = tuple(np.mean(numbers, axis=0).tolist())
            yield Clip(row["scene"], row["split"], row["clip_event"] == "fight", mean)


def read_greys(path: Path) -> tuple[list[Grey], float]:
    """All frames of a video, small and grey, and how many there are a second."""
    capture = cv2.VideoCapture(str(path))
    rate, greys = float(capture.get(cv2.CAP_PROP_FPS)), []
    while (read := capture.read())[0]:
        greys.append(motion_picture(np.asarray(read[1], np.uint8)))
    capture.release()
    return greys, rate


def fit(clips: Sequence[Clip]) -> Fit:
    """Fit on clips; fights and others weigh the same."""
    numbers = torch.tensor([clip.numbers for clip in clips])
    target = torch.tensor([float(clip.fight) for clip in clips])
    weights, offset = logistic(numbers, target, PENALTY, torch.zeros(len(clips)))
    return Fit(weights, float(offset))


def fit_without_folds(clips: Sequence[Clip]) -> list[Fit]:
    """One fit for each fold of scenes, on the other folds."""
    return [fit([c for c in clips if fold_of(c.scene, FOLDS) != fold]) for fold in range(FOLDS)]


def auc(clips: Sequence[Clip], fits: Sequence[Fit]) -> float:
    """How often a fight scores above another clip, each scored by the fit without its scene."""
    scores = [fits[fold_of(clip.scene, FOLDS)].log_odds(clip.numbers) for clip in clips]
    shown = [s for s, clip in zip(scores, clips, strict=True) if clip.fight]
    quiet = [s for s, clip in zip(scores, clips, strict=True) if not clip.fight]
    return float(np.mean([(s > q) + 0.5 * (s == q) for s in shown for q in quiet]))


def motion_of(timeline: Timeline, fits: Sequence[Fit], seed: int) -> dict[float, float]:
    """Probability of a scuffle by the time of the window's last look, where it is known."""
    sampler, order = Ticks(CaptureConfig().analysis_fps), random.Random(f"{seed} {timeline.name}")
    number, before = 0, None
    looks: list[float | None] = []
    found: dict[float, float] = {}
    for segment in timeline.segments:
        judge = fits[fold_of(segment.footage.scene, FOLDS)]
        for frame in frames(segment, order):
            now = motion_picture(frame)
            if sampler.take(number / FPS):
                # The grabber measures every second look, the first of them the second.
                known = len(looks) % 2 == 1 and before is not None and before.shape == now.shape
                look = judge.log_odds(scuffle_numbers(before, now, 1 / FPS)) if known else None  # type: ignore[arg-type]
                looks.append(look)
                if (probability := probability_of(looks[-LOOKS:])) is not None:
                    found[round(number / FPS, 3)] = probability
            number, before = number + 1, now
    return found


def put_in(folder: Path, timelines: Sequence[Timeline], fits: Sequence[Fit], seed: int) -> None:
    """Write FOLDER's captions with what motion says to FOLDER/moving."""
    lines = (folder / "captions-0000.jsonl").read_text(encoding="utf-8").splitlines()
    of_camera: dict[str, list[dict[str, Any]]] = {}
    for line in map(json.loads, lines):
        of_camera.setdefault(line["camera"], []).append(line)
    target = folder / "moving"
    target.mkdir(exist_ok=True)
    shutil.copy(folder / "labels.jsonl", target)
    with (target / "captions-0000.jsonl").open("w", encoding="utf-8") as file:
        for timeline in timelines:
            motion = motion_of(timeline, fits, seed)
            for line in of_camera[timeline.name]:
                probability = motion.get(round(line["media_time_s"], 3))
                if probability is not None:
                    line["concepts"][SCUFFLE] = round(probability, 6)
                file.write(json.dumps(line) + "\n")


def rules_with(rules: RuleSet, known: WhereKnown) -> RuleSet:
    """The rule `fight` alone, with another `where_known`."""
    rule = next(rule for rule in rules.rules if rule.spec.name == "fight")
    spec = rule.spec.model_copy(update={"where_known": known})
    return replace(rules, rules=(replace(rule, spec=spec),))


def try_rules(folder: Path, timelines: Sequence[Timeline], rules: RuleSet) -> Iterator[str]:
    """One line for each threshold of the pictures and confirmation: found-false by motion's."""
    captions = list(read_captions(folder / "moving" / "captions-0000.jsonl"))
    for pictures in LEAST_OF_PICTURES:
        for matches, of, within_s in CONFIRMATIONS:
            cells = []
            for motion in LEAST_OF_MOTION:
                known = WhereKnown(
                    concepts={"fight": pictures, SCUFFLE: motion},
                    confirm=Confirm(matches=matches, of=of, within_s=within_s),
                )
                alerts = map(encode_alert, replay(captions, rules_with(rules, known)))
                report = score(timelines, started_of(alerts))
                found = report["recall"]["fight"]["found"]
                cells.append(f"{found}-{report['normal_video']['false_alerts']}")
            yield f"| {pictures} | {matches} of {of} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--learns-from", nargs="+", default=["train"], metavar="SPLIT")
    parser.add_argument("--rules-on", type=Path, help="a folder of benchmarks.unseen_evidence")
    parser.add_argument("--rules", type=Path, default=SHIPPED_RULES)
    parser.add_argument("--at-most", type=int, default=60, help="timelines of each kind")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    data = data_root()
    with tempfile.TemporaryDirectory() as temporary:
        unpack(data, Path(temporary))
        every = list(read_clips(data, Path(temporary)))
        clips = [clip for clip in every if clip.split in options.learns_from]
        fits, whole = fit_without_folds(clips), fit(clips)
        print(f"{len(clips)} clips, AUC of scenes left out {auc(clips, fits):.3f}")
        print(f"_OFFSET = {whole.offset:.3f}")
        print(f"_WEIGHTS = ({', '.join(f'{weight:.3f}' for weight in whole.weights.tolist())})")
        if options.rules_on is None:
            return
        planned = plan(data, Path(temporary), "train", ["fight"], options.seed)
        timelines = chosen(planned, options.at_most, options.seed)
        put_in(options.rules_on, timelines, fits, options.seed)
    sys.stderr.write("trying rules: fights found - false alerts on normal video\n")
    print("| fight | confirm | " + " | ".join(f"{least:g}" for least in LEAST_OF_MOTION) + " |")
    for line in try_rules(options.rules_on, timelines, load_rules(options.rules)):
        print(line)


if __name__ == "__main__":
    main()
