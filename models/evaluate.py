"""``python -m models.evaluate --data NAME|FILE --model NAME --json``: how good a checkpoint is.

``flickr8k`` and ``surveillance`` lie below ``--data-root``, and ``flickr8k-test`` is short for
``flickr8k --split test``; a FILE is JSON lines of
``{"image": path, "captions": [...], "hazard": [...]}``, paths relative to the file. It needs
the ``train`` extra (pycocoevalcap). Captions come from :meth:`Captioner.caption`, as in serving.
``--features`` starts from a training cache of the same encoder's frozen lower stages instead, which
is faster; its maps are rounded to half precision, so a rare caption may differ.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from models.captioner import Captioner, Hypothesis, Window
from models.checkpoint import CheckpointError
from models.evaluation.captions import score_captions
from models.evaluation.hazards import HazardCase, names_hazard, score_hazards
from models.registry import load_captioner
from models.training.features import FeatureCache, open_cache
from models.training.sources import Sample, read_flickr, read_pictures, read_surveillance

__all__ = ["caption_features", "caption_pictures", "evaluate", "main", "read_data"]

_BATCH_CLIPS = 16
_BATCH_WINDOWS = 50
_SPLITS = ("train", "val", "test")
_DEFAULT_SPLITS = {"flickr8k": "test", "surveillance": "val"}
Clip = NDArray[np.uint8]
Captions = Iterator[tuple[str, Hypothesis]]


@dataclass(frozen=True)
class Evaluation:
    """Captions of every sample, and their scores as plain numbers for JSON."""

    captions: dict[str, str]
    report: dict[str, Any]


def evaluate(samples: Sequence[Sample], hypotheses: Captions) -> Evaluation:
    """Score every (key, caption) against the samples of these keys."""
    by_key = {sample.key: sample for sample in samples}
    captions: dict[str, str] = {}
    log_probabilities: list[float] = []
    for key, hypothesis in tqdm(hypotheses, total=len(by_key), unit=" captions", mininterval=5):
        captions[key] = hypothesis.text
        log_probabilities.append(hypothesis.log_probability)
    if missing := sorted(by_key.keys() - captions.keys()):
        raise ValueError(f"{len(missing)} pictures are not in the data, first {missing[0]}")
    references = {key: by_key[key].captions for key in captions}
    cases = [
        HazardCase(captions[key], frozenset(s.hazards), s.scene, s.source)
        for key, s in by_key.items()
    ]
    scores: dict[str, Any] = score_captions(captions, references)
    scores |= {
        "tokenizer": "models.vocabulary.tokenize (not the PTB tokenizer of COCO)",
        "pictures": len(captions),
        "distinct_captions": len(set(captions.values())),
        "mean_log_probability": sum(log_probabilities) / len(log_probabilities),
    }
    return Evaluation(captions, {**scores, **_hazard_report(cases)})


def _hazard_report(cases: Sequence[HazardCase]) -> dict[str, Any]:
    """Per hazard where there are labels; else how often a hazard word is said at all."""
    scores = score_hazards(cases)
    if any(case.hazards for case in cases):
        return {"hazards": {hazard: asdict(score) for hazard, score in scores.items()}}
    said = [c for c in cases if any(names_hazard(c.caption, hazard) for hazard in scores)]
    return {"hazard_word_rate": len(said) / len(cases)}


def caption_pictures(
    captioner: Captioner, clips: Iterator[tuple[str, Clip]], beam_size: int
) -> Captions:
    """Caption clips as in serving, a batch at a time."""
    while batch := list(islice(clips, _BATCH_CLIPS)):
        found = captioner.caption([frames for _, frames in batch], beam_size=beam_size)
        yield from zip((key for key, _ in batch), found, strict=True)


def caption_features(
    captioner: Captioner, cache: FeatureCache, keys: Sequence[str], beam_size: int
) -> Captions:
    """Caption from cached maps, unmirrored view, a batch at a time.

    Raises:
        ValueError: A key is not cached.

    """
    if missing := [key for key in keys if key not in cache.index]:
        raise ValueError(f"{len(missing)} pictures are not cached, first {missing[0]}")
    for start in range(0, len(keys), _BATCH_WINDOWS):
        batch = keys[start : start + _BATCH_WINDOWS]
        windows = [_cached_window(captioner, cache, key) for key in batch]
        yield from zip(batch, captioner.decode(windows, beam_size=beam_size), strict=True)


@torch.inference_mode()
def _cached_window(captioner: Captioner, cache: FeatureCache, key: str) -> Window:
    maps = torch.from_numpy(np.array(cache.frames(key, 0))).float().to(captioner.device)
    features = captioner.encoder.upper(maps, cache.stages)
    return features, [float(i) for i in range(len(features))]


def read_data(name: str, root: Path, split: str | None, clips: bool) -> list[Sample]:
    """Read the samples of a named set's split, or of a file of JSON lines.

    Raises:
        FileNotFoundError: The data are not there.
        ValueError: No sample is left, or a line of the file cannot be used.

    """
    name, split = _named_split(name, split)
    if name in _DEFAULT_SPLITS:
        read = read_flickr if name == "flickr8k" else read_surveillance
        split = split or _DEFAULT_SPLITS[name]
        samples = [s for s in read(root) if s.split == split and s.clip == clips]
    else:
        samples = [s for s in _read_file(Path(name)) if split in (None, s.split)]
    if not samples:
        raise ValueError(f"{name}: no samples of split {split!r}")
    return samples


def _named_split(name: str, split: str | None) -> tuple[str, str | None]:
    """``flickr8k-test`` is the split ``test`` of ``flickr8k``; other names stay as they are."""
    start, _, end = name.rpartition("-")
    return (start, split or end) if start in _DEFAULT_SPLITS and end in _SPLITS else (name, split)


def _read_file(file: Path) -> Iterator[Sample]:
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
            image = str(file.parent / line["image"])
            captions, hazards = tuple(line["captions"]), tuple(line.get("hazard", ()))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}:{number}: needs image and captions: {error!r}") from None
        scene, split = str(line.get("scene", image)), str(line.get("split", "test"))
        yield Sample(image, str(line.get("source", "file")), split, scene, captions, hazards)


def _pictures(name: str, root: Path, samples: Sequence[Sample]) -> Iterator[tuple[str, Clip]]:
    keys = {sample.key for sample in samples}
    if _named_split(name, None)[0] in _DEFAULT_SPLITS:
        yield from read_pictures(root, 5, keys)
        return
    for key in sorted(keys):
        picture = cv2.imread(key, cv2.IMREAD_COLOR)
        if picture is None:
            raise ValueError(f"{key}: not a picture that can be read")
        yield key, picture[None, :, :, ::-1].astype(np.uint8)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.evaluate")
    parser.add_argument(
        "--data", required=True, help="flickr8k[-SPLIT], surveillance[-SPLIT], or JSONL"
    )
    parser.add_argument("--model", default="default", help="a shipped name or a folder")
    parser.add_argument("--split", help="default: flickr8k test, surveillance val, a file's all")
    parser.add_argument("--clips", action="store_true", help="surveillance: clips, not pictures")
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--features", type=Path, help="a feature cache of the model's encoder")
    parser.add_argument("--limit", type=int, help="only the first so many samples")
    parser.add_argument("--device", default="auto")
    default_root = os.environ.get("WATCHWORD_DATA", "../shared/data")
    parser.add_argument("--data-root", type=Path, default=Path(default_root))
    parser.add_argument("--captions", type=Path, help="write the captions here, one JSON a line")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser.parse_args()


def _hypotheses(
    arguments: argparse.Namespace, captioner: Captioner, samples: Sequence[Sample]
) -> Captions:
    if arguments.features is None:
        pictures = _pictures(arguments.data, arguments.data_root, samples)
        return caption_pictures(captioner, pictures, arguments.beam_size)
    keys = [sample.key for sample in samples]
    return caption_features(captioner, open_cache(arguments.features), keys, arguments.beam_size)


def main() -> int:
    """Evaluate as the command line says; exit code 0, or 2 for what cannot be used."""
    arguments = _arguments()
    try:
        samples = read_data(arguments.data, arguments.data_root, arguments.split, arguments.clips)[
            : arguments.limit
        ]
        captioner = load_captioner(arguments.model, arguments.device)
        result = evaluate(samples, _hypotheses(arguments, captioner, samples))
    except (CheckpointError, FileNotFoundError, ValueError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    if arguments.captions:
        lines = [json.dumps({"key": k, "text": t}) for k, t in result.captions.items()]
        arguments.captions.write_text("\n".join(lines) + "\n", encoding="utf-8")
    report = {
        "data": arguments.data,
        "split": samples[0].split,
        "model": captioner.identity,
        **result.report,
    }
    report["beam_size"] = arguments.beam_size
    report["features"] = "cache" if arguments.features else "encoded"
    print(json.dumps(report) if arguments.json else json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
