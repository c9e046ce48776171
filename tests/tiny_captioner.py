"""A captioner small enough for unit tests: random weights that take sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from models.captioner import Captioner
from models.decoders import Decoder, DecoderConfig
from models.encoders import build_encoder
from models.vocabulary import Vocabulary


def tiny_captioner(
    words: Sequence[str],
    side: int,
    *,
    seed: int,
    concepts: Sequence[str] = (),
    evidence_after: int | None = None,
    **decoder: Any,
) -> Captioner:
    """Build one in evaluation mode; ``decoder`` are further fields of its configuration."""
    torch.manual_seed(seed)
    encoder = build_encoder("test_efficientnet")
    if evidence_after is not None:
        encoder.attach_evidence(evidence_after)
    config = DecoderConfig(
        vocabulary_size=len(words),
        feature_size=encoder.feature_size,
        word_size=16,
        hidden_size=24,
        value_size=20,
        attention_size=12,
        concept_count=len(concepts),
        evidence_size=encoder.evidence_size,
        **decoder,
    )
    built = Decoder(config)
    # A decoder fresh from its initialisation says the same of everything: make it take sides.
    for parameter in built.parameters():
        parameter.data.mul_(2.0)
    return Captioner(encoder, built, Vocabulary(list(words)), side, concepts).eval()
