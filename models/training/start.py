"""A training that begins from a finished captioner, for footage of one's own.

A few hundred captioned pictures teach no language, but they can teach a captioner that speaks one
what this place looks like and what people here call things. So the decoder, the concepts and the
upper encoder go on from where the checkpoint stands; words that it lacks are added. Its hazard
evidence, closer look and thresholds stay as they are, bit for bit, so that rules hold:
``python -m models.training readout`` fits those anew, where hazards are labelled.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from models.captioner import Captioner
from models.decoders import Decoder
from models.registry import load_captioner
from models.training.concepts import HAZARD_CONCEPTS
from models.training.config import TrainingConfig, TrainingConfigError
from models.vocabulary import Vocabulary

__all__ = ["load_start", "with_words"]


def load_start(config: TrainingConfig) -> Captioner | None:
    """Load the captioner that a training begins from; None where it begins from nothing.

    Raises:
        CheckpointError: There is no such checkpoint.
        TrainingConfigError: The configuration asks for what the checkpoint is not.

    """
    if not config.start:
        return None
    start = load_captioner(config.start, device="cpu", runtime="eager")
    stages = config.frozen_stages
    if start.encoder.evidence is not None:
        stages = start.encoder.evidence.lower_stages
    elif start.decoder.readout is not None:
        # Hazards are told by the features of captions: were these to learn, the same thresholds
        # would stand for something else.
        stages = len(start.encoder.stages())
    is_so = {
        "encoder": (config.encoder, start.encoder.name),
        "input_size": (config.input_size, start.input_size),
        "frozen_stages": (config.frozen_stages, stages),
    }
    for key, (asked, has) in is_so.items():
        if asked != has:
            raise TrainingConfigError(f"{key}: {config.start} has {has}, not {asked}; say {has}")
    if config.readout or config.evidence_branch:
        raise TrainingConfigError(
            f"readout, evidence_branch: {config.start} keeps its own; leave both out, and fit them "
            "anew afterwards with python -m models.training readout"
        )
    if start.concept_words[: len(HAZARD_CONCEPTS)] != HAZARD_CONCEPTS:
        raise TrainingConfigError(f"start: {config.start} has no concepts of hazards to go on from")
    return start


def with_words(start: Captioner, words: Iterable[str]) -> Captioner:
    """Copy a captioner, with the words that it lacks behind those it has.

    What it says is at first what it said: nothing asks for a new word yet.
    """
    known = start.vocabulary
    vocabulary = Vocabulary([*known.words, *(word for word in words if word not in known)])
    decoder = copy.deepcopy(start.decoder)
    _widen(decoder, len(vocabulary))
    encoder = copy.deepcopy(start.encoder)
    wider = Captioner(encoder, decoder, vocabulary, start.input_size, start.concepts)
    wider.closer = copy.deepcopy(start.closer)
    wider.identity = start.identity
    return wider.eval()


@torch.no_grad()
def _widen(decoder: Decoder, size: int) -> None:
    """Give embeddings and output rows for ``size`` words; the old ones stay, bit for bit."""
    more = size - decoder.config.vocabulary_size
    if not more:
        return
    read, said = decoder.words.weight, decoder.output.weight
    # Embeddings like others; the mean of all in the output, so that no picture asks for it yet.
    drawn = read.mean(0) + read.std(0) * torch.randn(more, read.shape[1])
    decoder.words.weight = _longer(read, drawn)
    decoder.words.num_embeddings = size
    decoder.output.weight = _longer(said, said.mean(0).expand(more, -1))
    bias = decoder.output.bias
    decoder.output.bias = _longer(bias, bias.min().expand(more))
    decoder.output.out_features = size
    decoder.config = replace(decoder.config, vocabulary_size=size)


def _longer(rows: Tensor, more: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.cat((rows, more)))
