"""Trainings that begin from a finished captioner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_captioner import tiny_captioner
from tiny_training import STAGES, TINY

from models import load_captioner
from models.captioner import Captioner
from models.checkpoint import save_checkpoint
from models.closer_look import CloserLook
from models.training.concepts import HAZARD_CONCEPTS
from models.training.config import TrainingConfig, TrainingConfigError
from models.training.features import FeatureCache
from models.training.loop import Trainer
from models.training.sources import DataError, Sample
from models.training.start import load_start, with_words

WORDS = ["<pad>", "<begin>", "<end>", "<unknown>", "a", "man", "walks", "fire", "burns"]
SIDE = 64
OWN = replace(TINY, start="here", readout=False, epochs=8, average_decay=0.9, repeats={"mine": 20})
SAMPLES = [
    Sample("mine/images/0", "mine", "train", "s0", ("a forklift turns",)),
    Sample("mine/images/1", "mine", "train", "s1", ("a man walks",)),
    Sample("mine/images/2", "mine", "val", "s2", ("a man walks", "a forklift turns")),
]


def finished() -> Captioner:
    captioner = tiny_captioner(
        WORDS,
        SIDE,
        seed=4,
        concepts=(*HAZARD_CONCEPTS, "man"),
        evidence_after=STAGES,
        hazard_count=len(HAZARD_CONCEPTS),
        hazards_condition=True,
    )
    assert captioner.decoder.readout is not None
    for told in captioner.decoder.readout.state_dict().values():
        told.copy_(torch.rand_like(told) - 0.5)
    captioner.closer = CloserLook(captioner.encoder.channels_after(STAGES), STAGES)
    captioner.closer.weights += torch.randn_like(captioner.closer.weights)
    return captioner


def pictures() -> np.ndarray:
    seen = np.random.default_rng(3).integers(0, 60, (3, SIDE, SIDE, 3), np.uint8)
    seen[1:] += 190
    return seen


def cache_of(captioner: Captioner) -> FeatureCache:
    with torch.inference_mode():
        pixels = torch.from_numpy(pictures()).permute(0, 3, 1, 2)
        maps = captioner.encoder.lower(pixels, STAGES).half().numpy()
    return FeatureCache(maps, {s.key: (n, 1) for n, s in enumerate(SAMPLES)}, 1, STAGES)


def trained(folder: Path, start: Captioner, config: TrainingConfig = OWN) -> Trainer:
    trainer = Trainer(config, SAMPLES, cache_of(start), folder, start=start)
    trainer.run()
    return trainer


def test_new_words_change_nothing_of_the_old_ones():
    old = finished()
    new = with_words(old, ["forklift", "man", "turns"])
    assert new.vocabulary.words == (*WORDS, "forklift", "turns")
    assert old.vocabulary.words == tuple(WORDS)
    assert new.decoder.config.vocabulary_size == len(WORDS) + 2
    before, after = old.decoder.state_dict(), new.decoder.state_dict()
    for name, value in before.items():
        assert torch.equal(value, after[name][: len(value)] if value.ndim else after[name]), name
    clips = list(pictures())
    for one, two in zip(old.caption(clips), new.caption(clips), strict=True):
        assert one.text == two.text


def test_a_start_learns_new_words_and_keeps_its_evidence(tmp_path: Path):
    start = finished()
    trained(tmp_path, start)
    save_checkpoint(tmp_path / "start", start)
    before = load_captioner(tmp_path / "start", runtime="eager")
    after = load_captioner(tmp_path / "checkpoint", runtime="eager")
    said = [one.text for one in after.caption(list(pictures()[:2]))]
    assert said == ["a forklift turns", "a man walks"]
    hazards = list(HAZARD_CONCEPTS)
    clips = list(pictures())
    np.testing.assert_array_equal(after.detect(clips, hazards), before.detect(clips, hazards))
    assert after.closer is not None and before.closer is not None
    assert torch.equal(after.closer.weights, before.closer.weights)
    assert after.concepts.thresholds == before.concepts.thresholds


def test_a_start_that_was_cut_off_goes_on_and_another_is_refused(tmp_path: Path):
    whole = trained(tmp_path / "whole", finished(), replace(OWN, epochs=2))
    trained(tmp_path / "cut", finished(), replace(OWN, epochs=1))
    start = finished()
    start.identity = "other"
    with pytest.raises(DataError, match="the checkpoint it begins from"):
        trained(tmp_path / "cut", start, replace(OWN, epochs=2))
    assert whole.epoch == 2


def test_a_start_whose_evidence_would_change_under_its_thresholds_is_refused(tmp_path: Path):
    words = [*WORDS, "man2"]
    hazards = len(HAZARD_CONCEPTS)
    plain = tiny_captioner(words, SIDE, seed=4, concepts=HAZARD_CONCEPTS, hazard_count=hazards)
    save_checkpoint(tmp_path, plain)
    with pytest.raises(TrainingConfigError, match=r"frozen_stages: .* has 7, not 3; say 7"):
        load_start(replace(OWN, start=str(tmp_path)))
    assert load_start(replace(OWN, start=str(tmp_path), frozen_stages=7)) is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "resnet18"}, "has test_efficientnet, not resnet18; say test_efficientnet"),
        ({"input_size": 96}, "input_size: .* has 64, not 96"),
        ({"frozen_stages": 2}, "frozen_stages: .* has 3, not 2"),
        ({"readout": True}, "keeps its own"),
    ],
)
def test_what_does_not_fit_the_start_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
):
    save_checkpoint(tmp_path, finished())
    config = replace(OWN, start=str(tmp_path))
    start = load_start(config)
    assert start is not None and start.vocabulary.words == tuple(WORDS)
    assert load_start(replace(config, start="")) is None
    with pytest.raises(TrainingConfigError, match=message):
        load_start(replace(config, **change))  # type: ignore[arg-type]
