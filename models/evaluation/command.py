"""``python -m models.evaluate --data NAME|FILE --model NAME --json``: how good a checkpoint is.

A NAME is a data set below ``--data-root`` (as training reads them), and ``flickr8k-test`` is short
for ``flickr8k --split test``; a FILE is JSON lines of
``{"image": path, "captions": [...], "hazard": [...]}``, paths relative to the file. It needs
the ``train`` extra (pycocoevalcap). Pictures are encoded, decoded and searched for hazards as in
serving. ``--corruption NAME`` shows them as a bad camera would.
``--features`` starts from a training cache of the same encoder's frozen lower stages instead, which
is faster; its maps are rounded to half precision, so a rare caption may differ. ``--draw`` also
draws several captions of each picture, and tells how they differ and how good they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from models.captioner import Captioner, Hypothesis
from models.checkpoint import CheckpointError
from models.decoding import BEAM_SEARCH, Decoding, Prepared
from models.encoders import EncoderError
from models.evaluation.captions import (
    score_captions,
    score_drawn,
    score_variety,
    word_calibration,
)
from models.evaluation.data import (
    Corruption,
    Windows,
    cached_windows,
    encoded_windows,
    named_split,
    read_data,
    read_frames,
)
from models.evaluation.evidence import EvidenceCase, score_evidence
from models.evaluation.hazards import (
    HAZARD_WORDS,
    HazardCase,
    hazards_named,
    names_hazard,
    score_hazards,
)
from models.evaluation.people import people_report
from models.preference import BY_SCORE
from models.registry import load_captioner
from models.training.corruptions import CORRUPTIONS
from models.training.features import open_cache
from models.training.sources import Sample, data_root

__all__ = ["Observation", "evaluate", "main", "observe"]

_BATCH_WINDOWS = 50


@dataclass(frozen=True)
class Observation:
    """What a model says of one picture or clip: a caption, and the probability of each hazard.

    ``drawn`` are the different captions that it drew, where it was to draw some.
    """

    key: str
    hypothesis: Hypothesis
    hazards: dict[str, float]
    drawn: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """Captions of every sample, and their scores as plain numbers for JSON."""

    captions: dict[str, str]
    report: dict[str, Any]


def observe(
    captioner: Captioner,
    windows: Windows,
    beam_size: int,
    drawing: Decoding | None = None,
    decoding: Decoding = BEAM_SEARCH,
) -> Iterator[Observation]:
    """Caption windows and look for hazards in them, a batch at a time; draw captions if asked."""
    hazards = [hazard for hazard in HAZARD_WORDS if hazard in captioner.concept_words]
    while batch := list(islice(windows, _BATCH_WINDOWS)):
        inside = captioner.prepare([window for _, window in batch])
        hypotheses = captioner.decode(inside, beam_size=beam_size, decoding=decoding)
        found = captioner.detect_windows(inside, hazards)[0] if hazards else [()] * len(batch)
        drawn = [()] * len(batch) if drawing is None else _drawn(captioner, inside, drawing)
        for (key, _), hypothesis, row, texts in zip(batch, hypotheses, found, drawn, strict=True):
            probabilities = dict(zip(hazards, map(float, row), strict=True))
            yield Observation(key, hypothesis, probabilities, texts)


def _drawn(captioner: Captioner, windows: Prepared, drawing: Decoding) -> list[tuple[str, ...]]:
    """Different captions of each window; a beam of 1, so that nothing but the draw decides."""
    found = captioner.decode(windows, beam_size=1, decoding=drawing)
    return [(one.text, *(other.text for other in one.alternatives)) for one in found]


def evaluate(
    samples: Sequence[Sample],
    observations: Iterator[Observation],
    training_captions: Sequence[str] = (),
    meteor: bool = True,
) -> Evaluation:
    """Score what was observed of these samples."""
    by_key = {sample.key: sample for sample in samples}
    progress = tqdm(observations, total=len(by_key), unit=" captions", mininterval=5)
    seen = {observation.key: observation for observation in progress}
    if missing := sorted(by_key.keys() - seen.keys()):
        raise ValueError(f"{len(missing)} pictures are not in the data, first {missing[0]}")
    captions = {key: observation.hypothesis.text for key, observation in seen.items()}
    references = {key: by_key[key].captions for key in captions}
    hypotheses = {key: observation.hypothesis for key, observation in seen.items()}
    report: dict[str, Any] = score_captions(captions, references, meteor)
    report |= {
        "tokenizer": "models.vocabulary.tokenize (not the PTB tokenizer of COCO)",
        "pictures": len(captions),
        "variety": score_variety(captions, training_captions),
        "word_calibration": word_calibration(hypotheses, references),
    }
    drawn = {key: observation.drawn for key, observation in seen.items() if observation.drawn}
    if drawn:
        report["drawn"] = score_drawn(drawn, references)
    return Evaluation(captions, {**report, **_hazard_report(by_key, seen)})


def _hazard_report(samples: dict[str, Sample], seen: dict[str, Observation]) -> dict[str, Any]:
    """Per hazard, of samples that are labelled; where none is, how often a hazard word is said.

    Without labels a caption is false that names a hazard which no reference names.
    """
    labelled = {key: (s, s.hazards) for key, s in samples.items() if s.hazards is not None}
    if not labelled:
        said = {key: hazards_named([seen[key].hypothesis.text]) for key in samples}
        named = [key for key, hazards in said.items() if hazards]
        false = [key for key in named if said[key] - hazards_named(samples[key].captions)]
        return {
            "hazard_word_rate": len(named) / len(samples),
            "false_hazard_word_rate": len(false) / len(samples),
        }
    cases = [
        HazardCase(seen[key].hypothesis.text, frozenset(shown), s.scene, s.source)
        for key, (s, shown) in labelled.items()
    ]
    hazards = {hazard: asdict(score) for hazard, score in score_hazards(cases).items()}
    detected = next(iter(seen.values())).hazards
    evidence = [
        EvidenceCase(seen[key].hazards, frozenset(shown), s.scene, s.source)
        for key, (s, shown) in labelled.items()
    ]
    for hazard, score in score_evidence(evidence, list(detected)).items():
        hazards[hazard]["evidence"] = asdict(score)
    return {
        "hazards": hazards,
        "labelled": len(labelled),
        "hazards_by_people": people_report(cases, [s.captions for s, _ in labelled.values()]),
        "false_on_normal": _false_on_normal(cases),
    }


def _false_on_normal(cases: Sequence[HazardCase]) -> float | None:
    """Share of pictures without any hazard whose caption names one."""
    normal = [case for case in cases if not case.hazards]
    said = [c for c in normal if any(names_hazard(c.caption, hazard) for hazard in HAZARD_WORDS)]
    return len(said) / len(normal) if normal else None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.evaluate")
    parser.add_argument(
        "--data", required=True, help="a data set, as flickr8k or flickr8k-val, or JSONL"
    )
    parser.add_argument("--model", default="default", help="a shipped name or a folder")
    parser.add_argument("--split", help="default: val (flickr8k: test), a file's all")
    parser.add_argument("--clips", action="store_true", help="the clips, not the pictures")
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument(
        "--draw", choices=("latent", "nucleus"), help="also draw captions: latents, or p = 0.9"
    )
    parser.add_argument("--without-meteor", action="store_true", help="spare its Java program")
    parser.add_argument("--draws", type=int, default=5, help="how many of each picture")
    parser.add_argument(
        "--by-score", action="store_true", help="captions by their score alone, no preference"
    )
    parser.add_argument("--features", type=Path, help="a feature cache of the model's encoder")
    parser.add_argument("--corruption", choices=sorted(CORRUPTIONS), help="what a camera does")
    parser.add_argument("--severity", type=int, default=3, choices=range(1, 6))
    parser.add_argument("--limit", type=int, help="only the first so many samples")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--data-root", type=Path, default=data_root())
    parser.add_argument("--captions", type=Path, help="write the captions here, one JSON a line")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser.parse_args()


def _windows(
    arguments: argparse.Namespace, captioner: Captioner, samples: Sequence[Sample]
) -> Windows:
    if arguments.features is not None:
        if arguments.corruption:
            raise ValueError("--corruption needs pictures; leave --features out")
        keys = [sample.key for sample in samples]
        return cached_windows(captioner, open_cache(arguments.features), keys)
    frames = read_frames(arguments.data, arguments.data_root, samples)
    if arguments.corruption:
        spoil = Corruption(arguments.corruption, arguments.severity)
        frames = ((key, spoil(key, clip)) for key, clip in frames)
    return encoded_windows(captioner, frames)


def _training_captions(arguments: argparse.Namespace) -> list[str]:
    """Captions of the training split of the same named set, to know what is new."""
    name = named_split(arguments.data)[0]
    try:
        samples = read_data(name, arguments.data_root, "train", arguments.clips)
    except (FileNotFoundError, ValueError):
        return []
    return [caption for sample in samples for caption in sample.captions]


def _drawing(arguments: argparse.Namespace) -> Decoding | None:
    """How captions are drawn besides the best one, if at all."""
    if arguments.draw is None:
        return None
    if arguments.draw == "latent":
        return Decoding(latent_samples=arguments.draws)
    return Decoding(top_p=0.9, samples=arguments.draws)


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    samples = read_data(arguments.data, arguments.data_root, arguments.split, arguments.clips)[
        : arguments.limit
    ]
    captioner = load_captioner(arguments.model, arguments.device, arguments.runtime)
    windows = _windows(arguments, captioner, samples)
    drawing = _drawing(arguments)
    decoding = Decoding(preference=BY_SCORE) if arguments.by_score else BEAM_SEARCH
    observations = observe(captioner, windows, arguments.beam_size, drawing, decoding)
    training_captions = _training_captions(arguments)
    result = evaluate(samples, observations, training_captions, not arguments.without_meteor)
    if arguments.captions:
        lines = [json.dumps({"key": k, "text": t}) for k, t in result.captions.items()]
        arguments.captions.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {
        "data": arguments.data,
        "split": samples[0].split,
        "model": captioner.identity,
        "runtime": captioner.runtime,
        "beam_size": arguments.beam_size,
        "preference": asdict(decoding.preference),
        "features": "cache" if arguments.features else "encoded",
        "draw": arguments.draw,
        "draws": arguments.draws if arguments.draw else 0,
        "corruption": arguments.corruption,
        "severity": arguments.severity if arguments.corruption else None,
        **result.report,
    }


def main() -> int:
    """Evaluate as the command line says; exit code 0, or 2 for what cannot be used."""
    arguments = _arguments()
    try:
        report = _run(arguments)
    except (CheckpointError, EncoderError, FileNotFoundError, ValueError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report) if arguments.json else json.dumps(report, indent=2))
    return 0
