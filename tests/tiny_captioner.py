"""A captioner small enough for unit tests: random weights that take sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from models import Decoding
from models.captioner import Captioner
from models.concept_vocabulary import ConceptVocabulary
from models.decoders import Decoder, DecoderConfig
from models.encoders import build_encoder
from models.search import Hypothesis
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
    known = ConceptVocabulary(tuple(concepts))
    return Captioner(encoder, built, Vocabulary(list(words)), side, known).eval()


def told_one_by_one(
    captioner: Captioner, clips: list[np.ndarray], decoding: Decoding
) -> list[Hypothesis]:
    """Caption clips alone, and see that they are told as in one batch; return the captions."""
    told = []
    for clip, expected in zip(clips, captioner.caption(clips, 4, decoding=decoding), strict=True):
        (alone,) = captioner.caption([clip], 4, decoding=decoding)
        assert alone.text == expected.text
        assert alone.log_probability == pytest.approx(expected.log_probability, abs=1e-3)
        assert [a.text for a in alone.alternatives] == [a.text for a in expected.alternatives]
        told.append(alone)
    return told
