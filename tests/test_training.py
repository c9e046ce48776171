"""Training on a few made-up features: it learns, resumes exactly, and pays for good captions."""

from __future__ import annotations

import ast
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("tensorboard", reason="needs the train extra")
pytest.importorskip("tqdm", reason="needs the train extra")
pytest.importorskip("pycocoevalcap", reason="needs the train extra")

from models.captioner import Captioner
from models.decoders import Decoder, DecoderConfig
from models.encoders import build_encoder
from models.evaluate import caption_features, caption_pictures
from models.search import SearchConfig, search
from models.training.data import batches, caption_tensor
from models.training.features import FeatureCache
from models.training.loop import Trainer, TrainingConfig
from models.training.losses import CiderReward, cross_entropy, self_critical_loss
from models.training.sources import Sample
from models.vocabulary import BEGIN, END, PAD, Vocabulary

CAPTIONS = {
    "flickr/0": ("a dog runs", "the dog runs fast"),
    "flickr/1": ("a man sits", "the man sits here"),
    "cctv/2": ("two men fight", "the two men fight here"),
    "clip/3": ("a fire burns", "the fire burns here"),
}
FRAMES = {"clip/3": 3}
CONFIG = TrainingConfig(
    encoder="tf_efficientnet_lite0",
    input_size=224,
    frames_per_clip=3,
    min_word_count=1,
    seed=5,
    batch_clips=2,
    epochs=3,
    learning_rate=5e-3,
    label_smoothing=0.1,
    surveillance_repeats=2,
    self_critical_epochs=1,
    self_critical_learning_rate=1e-4,
)


def made_samples() -> list[Sample]:
    sources = {"flickr": "flickr", "cctv": "road", "clip": "road"}
    samples = [
        Sample(key, sources[key.split("/")[0]], "train", key, texts, (), key.startswith("clip"))
        for key, texts in CAPTIONS.items()
    ]
    return [*samples, replace(samples[0], key="flickr/9", split="val", scene="other")]


def made_cache() -> FeatureCache:
    random = np.random.default_rng(0)
    index, rows, first = {}, [], 0
    for key in [*CAPTIONS, "flickr/9"]:
        frames = FRAMES.get(key, 1)
        index[key] = (first, frames)
        rows.append(random.normal(size=(2 * frames, 4, 6)).astype(np.float16))
        first += 2 * frames
    return FeatureCache(np.concatenate(rows), index)


def trainer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, config: TrainingConfig = CONFIG
) -> Trainer:
    monkeypatch.setattr(Trainer, "export", lambda self, folder: None)
    return Trainer(config, made_samples(), made_cache(), folder)


def weights(of: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in of.decoder.state_dict().items()}


def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = trainer(tmp_path / "whole", monkeypatch)
    whole.run()
    broken = trainer(tmp_path / "broken", monkeypatch)
    epoch = Trainer._epoch

    def killed(self: Trainer, self_critical: bool) -> float:
        if self.epoch == 2:
            torch.rand(7)  # the kill comes in the middle, after some randomness was used
            raise KeyboardInterrupt
        return epoch(self, self_critical)

    monkeypatch.setattr(Trainer, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    monkeypatch.setattr(Trainer, "_epoch", epoch)
    resumed = trainer(tmp_path / "broken", monkeypatch)
    resumed.run()
    assert resumed.epoch == whole.epoch == 4
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name


def test_the_seed_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runs = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        one = trainer(tmp_path / name, monkeypatch, replace(CONFIG, seed=seed, epochs=1))
        one.run()
        runs.append(weights(one)["output.weight"])
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
    for batch in batches(samples, made_cache(), vocabulary, 4, random.Random(1)):
        assert len(batch.features) == len(batch.samples) == len(batch.tokens)
        assert batch.features.shape[1] == batch.mask.shape[1]
        assert {FRAMES.get(s.key, 1) for s in batch.samples} == {batch.features.shape[1]}
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
    said = {"flickr/0": "a dog runs", "flickr/1": "a man sits here", "cctv/2": "men", "clip/3": "a"}
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


def tiny_captioner() -> Captioner:
    torch.manual_seed(4)
    encoder = build_encoder("test_efficientnet")
    vocabulary = Vocabulary.build([c for texts in CAPTIONS.values() for c in texts], 1)
    config = DecoderConfig(len(vocabulary), encoder.feature_size, 16, 24, 20, 12)
    decoder = Decoder(config)
    for parameter in decoder.parameters():
        parameter.data.mul_(2.0)
    return Captioner(encoder, decoder, vocabulary, 64).eval()


def cache_of(captioner: Captioner, pictures: np.ndarray) -> FeatureCache:
    """A cache of pictures and their mirror images, in the order that ``build_cache`` writes."""
    views = np.stack([pictures, pictures[:, :, ::-1]], axis=1).reshape(-1, 64, 64, 3)
    rows = captioner.encode(views).numpy().astype(np.float16)
    return FeatureCache(rows, {f"flickr/{i}": (2 * i, 1) for i in range(len(pictures))})


def test_evaluation_says_the_same_from_the_cache_as_from_the_pictures():
    captioner = tiny_captioner()
    pictures = np.random.default_rng(2).integers(0, 256, (3, 64, 64, 3), np.uint8)
    keys = [f"flickr/{i}" for i in range(3)]
    cached = dict(caption_features(captioner, cache_of(captioner, pictures), keys, 2))
    clips = zip(keys, pictures[:, None], strict=True)
    for key, expected in caption_pictures(captioner, clips, 2):
        assert cached[key].text == expected.text
        assert cached[key].log_probability == pytest.approx(expected.log_probability, abs=0.05)


def test_a_cache_that_does_not_fit_is_refused():
    captioner = tiny_captioner()
    cache = cache_of(captioner, np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="not cached, first flickr/7"):
        list(caption_features(captioner, cache, ["flickr/7"], 1))
    with pytest.raises(ValueError, match="cached features have 6 values"):
        list(caption_features(captioner, made_cache(), ["flickr/0"], 1))


def test_no_model_code_imports_pickle():
    folder = Path(__file__).parent.parent / "models"
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"pickle", "dill", "joblib"} & {n.split(".")[0] for n in names}, path
