"""``python -m models.training pseudo --data FOLDER``: captions for clips that nobody captioned.

A teacher's confident captions let a model learn from footage of one's own cameras (Lee 2013,
Pseudo-Label). ``FOLDER`` holds ``images`` and ``clips`` as in a data set, without
``captions.jsonl``, which this writes. Let ``repeats`` in the training's config show such a set
less often than what people described.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from models.captioner import Captioner, Hypothesis
from models.checkpoint import CheckpointError
from models.registry import load_captioner
from models.training.sources import DataError, read_folder

__all__ = ["label", "main"]


def label(folder: Path, captioner: Captioner, least_probability: float, frames: int = 5) -> int:
    """Caption a folder's pictures and clips and write ``captions.jsonl``; returns how many.

    Args:
        folder: A data set without captions.
        captioner: The teacher; it searches with beam 5.
        least_probability: A caption is kept from this geometric mean of its words' probabilities.
        frames: How many frames of a clip it looks at.

    Raises:
        DataError: There are captions already, or a file cannot be read.

    """
    file = folder / "captions.jsonl"
    if file.exists():
        raise DataError(f"{file} is there already and is not overwritten")
    lines = [
        line
        for line in _lines(folder, captioner, frames)
        if line["probability"] >= least_probability
    ]
    temporary = file.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
    temporary.replace(file)
    return len(lines)


def _lines(folder: Path, captioner: Captioner, frames: int) -> Iterator[dict[str, Any]]:
    for key, clip in read_folder(folder, frames):
        _, kind, name = key.split("/", 2)
        best = captioner.caption([clip], beam_size=5)[0]
        yield {
            kind[:-1]: name,
            "split": "train",
            "captions": [best.text],
            "probability": round(_confidence(best), 4),
            "pseudo": captioner.identity,
        }


def _confidence(hypothesis: Hypothesis) -> float:
    """Geometric mean probability of a caption's words, its end among them."""
    if not hypothesis.finished:
        return 0.0
    return math.exp(hypothesis.log_probability / (len(hypothesis.words) + 1))


def main(arguments: Sequence[str]) -> None:
    """Parse the command line and label."""
    parser = argparse.ArgumentParser(prog="python -m models.training pseudo")
    parser.add_argument("--data", type=Path, required=True, help="a folder with images or clips")
    parser.add_argument("--model", default="default", help="a shipped name or a checkpoint folder")
    parser.add_argument("--least-probability", type=float, default=0.45)
    options = parser.parse_args(arguments)
    try:
        kept = label(options.data, load_captioner(options.model), options.least_probability)
    except (DataError, CheckpointError) as error:
        parser.error(str(error))
    print(f"{kept} captions in {options.data / 'captions.jsonl'}")
