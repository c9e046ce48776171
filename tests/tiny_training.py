"""A training small enough for unit tests."""

from __future__ import annotations

from models.training.config import TrainingConfig

STAGES = 3
"""Stages of the test encoder that stay as they are."""

TINY = TrainingConfig(
    encoder="test_efficientnet",
    input_size=64,
    frames_per_clip=3,
    min_word_count=1,
    seed=5,
    batch_clips=2,
    epochs=2,
    learning_rate=5e-3,
    label_smoothing=0.1,
    self_critical_epochs=0,
    self_critical_learning_rate=1e-4,
    frozen_stages=STAGES,
    concept_min_count=1,
    readout=True,
)
