"""Training on views made anew, with teachers, and with scenes left out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
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

from models.checkpoint import save_checkpoint
from models.encoders import Encoder, build_encoder
from models.training import command, loop, sources
from models.training.data import LONGEST, caption_tensor
from models.training.graphed import Graphed
from models.training.live_views import _CORRUPTIONS, LiveMaps, camera_views
from models.training.loop import Trainer
from models.training.readout import fold_of, leave_out
from models.training.sources import DataError, Sample, read_pictures, read_samples
from models.training.teachers import Teachers, distillation_loss
from models.vocabulary import PAD, Vocabulary

CPU = torch.device("cpu")
CONFIG = replace(TINY, views=4, evidence_branch=True, encoder_blend=0.0, live_views=True)
SAMPLES = [
    Sample("road/images/0", "road", "train", "a", ("a dog runs",), ()),
    Sample("road/images/1", "road", "train", "b", ("a fire burns",), ("fire",)),
    Sample("road/clips/2", "road", "train", "c", ("two men fight",), ("fight",)),
    Sample("flickr8k/images/3", "flickr8k", "val", "d", ("a man sits",)),
]


def starting_weights(encoder: Encoder) -> None:
    """In the place of ImageNet's: the same for every encoder."""
    torch.manual_seed(9)
    encoder.trunk.load_state_dict(build_encoder("test_efficientnet").trunk.state_dict())


def live_maps() -> LiveMaps:
    torch.manual_seed(8)
    frames = {"road/clips/2": 3}
    squares = {
        s.key: torch.randint(0, 256, (frames.get(s.key, 1), 3, 64, 64), dtype=torch.uint8)
        for s in SAMPLES
    }
    return LiveMaps(squares, build_encoder("test_efficientnet"), STAGES, 4, CPU)


def test_the_first_views_are_the_picture_and_its_mirror_image():
    maps = live_maps()
    encoder = maps._encoder
    pixels = maps._squares["road/images/0"]
    with torch.no_grad():
        plain = encoder.lower(pixels, STAGES)
        mirrored = encoder.lower(pixels.flip(-1), STAGES)
    found = maps.maps(["road/images/0"] * 2, [0, 1])
    assert torch.allclose(found[0], plain, atol=1e-5)
    assert torch.allclose(found[1], mirrored, atol=1e-5)


def test_other_views_are_new_each_time_and_fixed_by_the_seed():
    clips = torch.randint(0, 256, (6, 2, 3, 64, 64)).float()
    torch.manual_seed(3)
    first, second = camera_views(clips), camera_views(clips)
    torch.manual_seed(3)
    assert torch.equal(camera_views(clips), first)
    assert not torch.equal(first, second)
    assert 0 <= float(first.min()) <= float(first.max()) <= 255


def test_three_views_of_sixteen_are_infrared_and_no_other_loses_its_colours():
    torch.manual_seed(7)
    red = torch.rand(640, 1, 1, 32, 32) * torch.tensor([220.0, 60, 20]).view(3, 1, 1)
    views = camera_views(red)
    grey = (views.amax(2) - views.amin(2)).amax((1, 2, 3)) < 1
    assert 90 < int(grey.sum()) < 150  # 120 on average, and ten of deviation


@pytest.mark.parametrize("side", [64, 60, 33])
def test_every_corruption_takes_squares_of_any_side(side: int):
    torch.manual_seed(3)
    seen = torch.rand(2, 2, 3, side, side) * 255
    for corruption in _CORRUPTIONS:
        assert corruption(seen, torch.full((2, 1, 1, 1, 1), 2.0)).shape == seen.shape


def test_one_camera_takes_all_frames_of_a_clip():
    frame = torch.randint(0, 256, (1, 1, 3, 64, 64)).float()
    torch.manual_seed(1)
    views = camera_views(frame.expand(40, 3, 3, 64, 64))
    # Noise is each frame's own; where it lies and how it is lit is the clip's.
    between_frames = (views[:, 0] - views[:, 1]).abs().mean((1, 2, 3))
    between_clips = (views[:-1, 0] - views[1:, 0]).abs().mean((1, 2, 3))
    assert float(between_frames.max()) < float(between_clips.median())


@pytest.mark.parametrize("corruption", dict.fromkeys(_CORRUPTIONS))
def test_a_corruption_keeps_the_shape_and_worsens_with_severity(
    corruption: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
):
    torch.manual_seed(0)
    coarse = torch.randint(0, 256, (8, 3, 64, 64)).float()
    seen = torch.nn.functional.interpolate(coarse, scale_factor=4).view(4, 2, 3, 256, 256)
    worse = []
    for severity in (1.0, 3.0):
        found = corruption(seen.clone(), torch.full((4, 1, 1, 1, 1), severity))
        assert found.shape == seen.shape
        worse.append(float((found.clamp(0, 255) - seen).abs().mean()))
    assert 0.1 < worse[0] < worse[1]


def test_a_step_that_cannot_be_recorded_runs_as_it_is_written():
    calls = []

    def step(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        calls.append(a.shape)
        return a + b

    graphed = Graphed(step, CPU)
    for size in (1, 2, 2, 2, 2):
        assert torch.equal(graphed(torch.ones(size), torch.ones(size)), torch.full((size,), 2.0))
    assert len(calls) == 5


def test_captions_can_be_padded_to_one_length_for_all_batches():
    words = Vocabulary.build(["a dog runs", "a man"], 1)
    short = caption_tensor([["a man"]], words)
    fixed = caption_tensor([["a man"]], words, LONGEST)
    assert fixed.shape == (1, 1, LONGEST)
    assert torch.equal(fixed[..., : short.shape[-1]], short)
    assert (fixed[..., short.shape[-1] :] == PAD).all()


def test_the_decoder_goes_by_evidence_from_its_first_word_when_no_epoch_changes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "load_imagenet_weights", starting_weights)
    trained = Trainer(CONFIG, SAMPLES, live_maps(), tmp_path)
    before = {k: v.clone() for k, v in trained.model.evidence.state_dict().items()}
    trained.run()
    assert trained.epoch == CONFIG.epochs
    assert trained.out_of_fold.keys() == {s.key for s in SAMPLES if s.hazards is not None}
    assert trained.model.decoder.config.hazards_condition
    for name, value in trained.model.evidence.state_dict().items():
        assert torch.equal(value, before[name]), name


def taught(words: list[str], folder: Path, seed: int) -> Path:
    save_checkpoint(folder, tiny_captioner(words, 64, seed=seed))
    return folder


def test_teachers_speak_with_one_voice_and_only_of_words_that_are_known(tmp_path: Path):
    words = Vocabulary.build(["a dog runs", "two men fight"], 1)
    paths = [taught(list(words.words), tmp_path / str(seed), seed) for seed in (1, 2)]
    maps, mask = torch.rand(2, 1, 16, 8, 8), torch.ones(2, 1, dtype=torch.bool)
    with torch.no_grad():
        encoder = build_encoder("test_efficientnet")
        maps = encoder.lower(torch.randint(0, 256, (2, 3, 64, 64)), STAGES).unsqueeze(1)
    tokens = caption_tensor([["a dog runs"], ["two men fight"]], words)
    both = Teachers(paths, words, STAGES, CPU)(maps, mask, tokens, None)
    each = [Teachers([path], words, STAGES, CPU)(maps, mask, tokens, None) for path in paths]
    assert torch.allclose(both, (each[0] + each[1]) / 2, atol=1e-6)
    assert torch.allclose(both.sum(-1), torch.ones(()), atol=1e-5)
    with pytest.raises(DataError, match="needs the vocabulary"):
        Teachers(paths, Vocabulary.build(["other words"], 1), STAGES, CPU)


def test_nothing_is_left_to_learn_of_a_teacher_when_one_says_the_same():
    torch.manual_seed(0)
    tokens = caption_tensor([["a dog runs"]], Vocabulary.build(["a dog runs"], 1), 8)
    logits = torch.randn(1, 1, 7, 9, requires_grad=True)
    same = distillation_loss(logits, tokens, logits.detach().softmax(-1))
    (slope,) = torch.autograd.grad(same, logits)
    assert float(slope.abs().max()) < 1e-6
    undecided = distillation_loss(torch.zeros_like(logits), tokens, logits.detach().softmax(-1))
    assert float(undecided) > float(same.detach())


def test_a_pupil_is_drawn_to_its_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "load_imagenet_weights", starting_weights)
    config = replace(CONFIG, readout=False, evidence_branch=False, words_from=("train", "val"))
    words = Trainer(config, SAMPLES, live_maps(), tmp_path / "words").vocabulary
    teacher = taught(list(words.words), tmp_path / "teacher", 3)
    agreement = []
    for weight in (0.0, 1.0):
        with_teacher = replace(
            config, teachers=(str(teacher),), teacher_weight=weight, epochs=3, average_decay=0.5
        )
        pupil = Trainer(with_teacher, SAMPLES, live_maps(), tmp_path / str(weight))
        pupil.run()
        maps = pupil.source.maps(["road/images/0"], [0])
        tokens = caption_tensor([["a dog runs"]], words)
        mask = torch.ones(1, 1, dtype=torch.bool)
        with torch.no_grad():
            model = pupil._averaged().eval()
            logits, _ = model.decoder(model.memory(maps, mask), tokens)
            theirs = Teachers([teacher], words, STAGES, CPU)(maps, mask, tokens, None)
        agreement.append(float(distillation_loss(logits, tokens, theirs)))
    assert agreement[1] < agreement[0]


def test_leaving_out_by_fold_leaves_each_labelled_scene_out_once():
    many = [replace(SAMPLES[0], key=f"road/images/{i}", scene=str(i // 2)) for i in range(60)]
    others = [replace(SAMPLES[3], split="train")]
    left_out: list[str] = []
    for fold in range(3):
        split = leave_out([*many, *others], fold, 3)
        held = {s.scene for s in split if s.split == "val"}
        assert held.isdisjoint({s.scene for s in split if s.split == "train"})
        assert held == {s.scene for s in many if fold_of(s.scene, 3) == fold}
        assert split[-1] == others[0]  # nobody labelled it, so it keeps its split
        left_out += held
    assert sorted(left_out) == sorted({s.scene for s in many})


def test_captions_written_here_of_pictures_elsewhere_are_read_with_their_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "data" / "mine"
    for place in ("images", "spare"):
        (folder / place).mkdir(parents=True)
        for name in ("a.png", "b.png"):
            cv2.imwrite(str(folder / place / name), np.zeros((8, 8, 3), np.uint8))
    (folder / "captions.jsonl").write_text('{"image": "a.png", "captions": ["x"]}\n')
    added = tmp_path / "added"
    added.mkdir()
    line = {"folder": "spare", "image": "b.png", "captions": ["y"], "scene": "s", "hazard": []}
    (added / "mine.jsonl").write_text(json.dumps(line) + "\n")
    monkeypatch.setattr(sources, "_ADDED", added)
    keys = [sample.key for sample in read_samples(tmp_path / "data")]
    assert keys == ["mine/images/a.png", "mine/spare/b.png"]
    # Of the other folder only what has captions is read.
    read = [key for key, _ in read_pictures(tmp_path / "data", 1)]
    assert read == ["mine/images/a.png", "mine/images/b.png", "mine/spare/b.png"]
    (folder / "spare").rename(tmp_path / "gone")
    assert [sample.key for sample in read_samples(tmp_path / "data")] == keys[:1]


def test_the_captions_written_here_can_be_learnt_from():
    for file in sources._ADDED.glob("*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert len({(line["folder"], line["image"]) for line in lines}) == len(lines)
        for line in lines:
            assert len(line["captions"]) == 3
            assert line["split"] == "train"
            assert all(text == text.lower().strip(" .") for text in line["captions"])


@pytest.mark.parametrize("fold", ["5/5", "1", "a/b", "-1/5"])
def test_a_fold_that_there_is_not_is_refused(
    fold: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["training", "--config", "x.yaml", f"--fold={fold}"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert f"{fold!r} is not like 0/5" in capsys.readouterr().err


def test_only_what_is_learnt_from_or_judged_is_held_in_memory():
    splits = ("train", "val", "test", "unused")
    samples = [replace(SAMPLES[0], key=f"road/images/{s}", split=s) for s in splits]
    assert command._seen(samples, CONFIG) == {"road/images/train", "road/images/val"}
    everything = replace(CONFIG, learns_from=splits)
    assert len(command._seen(samples, everything)) == 4
