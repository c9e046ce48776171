"""``python -m models.training lexicon --checkpoint FOLDER``: what is said of its concepts.

A training writes it into its checkpoints; this writes it into one trained before there was such a
thing. Captions are then chosen by agreement with the concepts (:mod:`models.preference`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from models.checkpoint import CheckpointError, save_lexicon
from models.registry import checkpoint_folder, load_captioner
from models.training.concepts import concept_lexicon
from models.training.sources import DataError, data_root, read_samples

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, count in the training pictures' captions, and write."""
    parser = argparse.ArgumentParser(prog="python -m models.training lexicon")
    parser.add_argument("--checkpoint", default="default", help="a shipped name or a folder")
    parser.add_argument("--data", type=Path, default=data_root(), help="data root")
    options = parser.parse_args(arguments)
    try:
        captioner = load_captioner(options.checkpoint, device="cpu", runtime="eager")
        learnt = [sample for sample in read_samples(options.data) if sample.split == "train"]
        lexicon = concept_lexicon(learnt, captioner.concept_words, captioner.vocabulary)
        save_lexicon(checkpoint_folder(options.checkpoint), lexicon)
    except (CheckpointError, DataError) as error:
        parser.error(str(error))
    named = sum(bool(words) for words in lexicon.words)
    print(f"{len(lexicon.words)} concepts, {named} of them named by words")
