"""Fitting the hazard read-out of a finished captioner anew."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_captioner import tiny_captioner
from tiny_training import STAGES, TINY

from models import load_captioner
from models.checkpoint import save_checkpoint
from models.encoders import Encoder
from models.training import refit
from models.training.concepts import HAZARD_CONCEPTS

WORDS = ["<pad>", "<begin>", "<end>", "<unknown>", "a", "fire", "burns", "yard"]
SIDE = 64


def picture(seed: int, *, burns: bool) -> np.ndarray:
    """A grey yard, BGR; where it burns there is red in it."""
    pixels = np.random.default_rng(seed).integers(60, 120, (48, 64, 3), np.uint8)
    if burns:
        pixels[8:40, 8:56] = (0, 60, 250)
    return pixels


def write_data(folder: Path, count: int = 40) -> None:
    """Pictures, each a scene of its own; every fifth is of the validation split."""
    (folder / "yard" / "images").mkdir(parents=True)
    lines = []
    for n in range(count):
        burns = n % 2 == 1
        cv2.imwrite(str(folder / "yard" / "images" / f"{n}.png"), picture(n, burns=burns))
        line = {"image": f"{n}.png", "scene": f"s{n}", "captions": ["a yard"]}
        line |= {"hazard": ["fire"] if burns else [], "split": "train" if n % 5 else "val"}
        lines.append(json.dumps(line) + "\n")
    (folder / "yard" / "captions.jsonl").write_text("".join(lines))


def finished(folder: Path, *, branch: bool = True) -> Path:
    """A checkpoint whose branch is not its starting weights, and whose read-out says nothing."""
    captioner = tiny_captioner(
        WORDS,
        SIDE,
        seed=4,
        concepts=HAZARD_CONCEPTS,
        evidence_after=STAGES if branch else None,
        hazard_count=len(HAZARD_CONCEPTS),
        hazards_condition=True,
    )
    if captioner.encoder.evidence is not None:
        for weights in captioner.encoder.evidence.parameters():
            weights.data.mul_(1.5)
    save_checkpoint(folder, captioner)
    return folder


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> Path:
    def load_starting_weights(encoder: Encoder) -> None:
        encoder.load_state_dict(tiny_captioner(WORDS, SIDE, seed=9).encoder.state_dict())

    monkeypatch.setattr(refit, "load_imagenet_weights", load_starting_weights)
    (tmp_path / "config.yaml").write_text(json.dumps(asdict(TINY)))
    given = {"model": "old", "data": "data", "config": "config.yaml", "output": "new"}
    refit.main([*(f"--{name}={tmp_path / place}" for name, place in given.items()), *options])
    return tmp_path / "new"


def test_a_refit_tells_new_scenes_and_leaves_captions_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    write_data(tmp_path / "data")
    old = finished(tmp_path / "old")
    new = run(tmp_path, monkeypatch)
    served = load_captioner(new, runtime="eager")
    pictures = [picture(100 + n, burns=n % 2 == 1)[:, :, ::-1].copy() for n in range(10)]
    fire = served.detect(pictures, ["fire"])[:, 0]
    assert fire[1::2].min() > 0.5 > fire[::2].max()
    assert served.concepts.thresholds["fire"].say < fire[1::2].min()
    assert served.decoder.config.hazards_condition
    before, after = (load_file(folder / "model.safetensors") for folder in (old, new))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(("encoder.evidence.", "decoder.readout.")) for name in changed)
    start = tiny_captioner(WORDS, SIDE, seed=9, evidence_after=STAGES).encoder.evidence
    assert start is not None and served.encoder.evidence is not None
    for name, value in served.encoder.evidence.named_parameters():
        expected = dict(start.named_parameters())[name]
        step = float(expected.abs().max()) / 127  # it is stored in eight bits
        torch.testing.assert_close(value, expected, atol=step + 1e-3, rtol=1e-3)
    lines = [json.loads(line) for line in (new / "out-of-fold.jsonl").read_text().splitlines()]
    assert {line["scene"] for line in lines} == {f"s{n}" for n in range(40)}
    assert "| fire | 20 of 40 pictures | 1.00 |" in capsys.readouterr().out


def test_what_a_refit_learns_from_can_leave_a_split_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_data(tmp_path / "data")
    old = finished(tmp_path / "old")
    new = run(tmp_path, monkeypatch, "--learns-from", "train", "--keep-branch")
    lines = [json.loads(line) for line in (new / "out-of-fold.jsonl").read_text().splitlines()]
    assert {line["scene"] for line in lines} == {f"s{n}" for n in range(40) if n % 5}
    before, after = (load_file(folder / "model.safetensors") for folder in (old, new))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("decoder.readout.") for name in changed)


def test_a_captioner_without_a_branch_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    write_data(tmp_path / "data", 4)
    finished(tmp_path / "old", branch=False)
    with pytest.raises(SystemExit):
        run(tmp_path, monkeypatch)
    assert "has no evidence branch: say --keep-branch" in capsys.readouterr().err


def test_a_refit_that_is_cut_off_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_data(tmp_path / "data", 4)
    finished(tmp_path / "old")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(refit, "refit", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, monkeypatch)
    assert not (tmp_path / "new").exists()
