"""Teaching an encoder to see in bad pictures what it sees in good ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_refit import finished, write_data
from tiny_training import STAGES, TINY
from torch import nn

from models import load_captioner
from models.captioner import Captioner
from models.training import steady
from models.training.features import CacheSettings, FeatureCache, build_cache, open_cache


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_data(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def captioner(tmp_path: Path) -> Captioner:
    return load_captioner(finished(tmp_path / "old"), device="cpu", runtime="eager")


def cached(captioner: Captioner, data: Path, folder: Path) -> FeatureCache:
    settings = CacheSettings(captioner.encoder.name, STAGES, 64, 3, views=4)
    return build_cache(data, folder, settings, encoder=captioner.encoder, view=steady.bad_view)


def unlike(captioner: Captioner, before: nn.ModuleList, cache: FeatureCache) -> float:
    """How far bad views are from what ``before`` saw of clean ones, over all of a cache."""
    keys = sorted(cache.index)
    upper = nn.ModuleList(captioner.encoder.stages()[STAGES:])
    with torch.no_grad():
        losses = [
            steady._unlikeness(
                captioner.decoder,
                before,
                upper,
                cache.maps(keys, [view % 2] * len(keys)),
                cache.maps(keys, [view] * len(keys)),
            )
            for view in (2, 3)
        ]
    return float(torch.stack(losses).mean())


def same(one: Captioner, other: Captioner) -> bool:
    """Whether all weights are equal to the bit."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_bad_pictures_come_to_look_like_good_ones(captioner: Captioner, data: Path, tmp_path: Path):
    cache = cached(captioner, data, tmp_path / "maps")
    old = load_captioner(tmp_path / "old", device="cpu", runtime="eager")
    before = nn.ModuleList(old.encoder.stages()[STAGES:])
    apart = unlike(captioner, before, cache)
    steady.steady(captioner, cache, epochs=30, learning_rate=3e-3, seed=1)
    assert unlike(captioner, before, cache) < 0.9 * apart


def test_the_same_seed_gives_the_same_encoder(captioner: Captioner, data: Path, tmp_path: Path):
    cache = cached(captioner, data, tmp_path / "maps")
    other = load_captioner(tmp_path / "old", device="cpu", runtime="eager")
    for each in (captioner, other):
        steady.steady(each, cache, epochs=2, learning_rate=1e-3, seed=3)
    assert same(captioner, other)


def test_it_ends_where_the_share_says_between_the_old_weights_and_the_new(
    captioner: Captioner, data: Path, tmp_path: Path
):
    cache = cached(captioner, data, tmp_path / "maps")
    old = load_captioner(tmp_path / "old", device="cpu", runtime="eager")
    ends = {}
    for share in (0.0, 0.5, 1.0):
        each = load_captioner(tmp_path / "old", device="cpu", runtime="eager")
        steady.steady(each, cache, epochs=3, learning_rate=1e-3, seed=3, share=share)
        ends[share] = each
    assert same(ends[0.0], old)
    assert not same(ends[1.0], old)
    for half, none, whole in zip(*(ends[s].parameters() for s in (0.5, 0.0, 1.0)), strict=True):
        torch.testing.assert_close(half, (none + whole) / 2)


def test_the_average_is_the_same_without_a_progress_bar(
    captioner: Captioner, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache = cached(captioner, data, tmp_path / "maps")
    other = load_captioner(tmp_path / "old", device="cpu", runtime="eager")
    steady.steady(captioner, cache, epochs=3, learning_rate=1e-3, seed=3)
    monkeypatch.setattr(steady, "tqdm", partial(steady.tqdm, disable=True))
    steady.steady(other, cache, epochs=3, learning_rate=1e-3, seed=3)
    assert same(captioner, other)


def test_a_training_that_was_cut_off_ends_as_an_unbroken_one(
    captioner: Captioner, data: Path, tmp_path: Path
):
    cache = cached(captioner, data, tmp_path / "maps")
    other = load_captioner(tmp_path / "old", device="cpu", runtime="eager")
    steady.steady(captioner, cache, epochs=3, learning_rate=1e-3, seed=3)

    state = tmp_path / "state.pt"
    pairs = steady._pairs
    with pytest.MonkeyPatch.context() as patch:

        def cut_off(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
            if state.is_file():  # the first epoch is over
                raise KeyboardInterrupt
            return pairs(*given)

        patch.setattr(steady, "_pairs", cut_off)
        with pytest.raises(KeyboardInterrupt):
            steady.steady(other, cache, epochs=3, learning_rate=1e-3, seed=3, state=state)
    again = load_captioner(tmp_path / "old", device="cpu", runtime="eager")
    steady.steady(again, cache, epochs=3, learning_rate=1e-3, seed=3, state=state)
    assert same(captioner, again)


@pytest.mark.parametrize("number", [2, 3])
def test_a_bad_view_leaves_everything_in_its_place(number: int):
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, :30] = 220  # bright on the left
    for seed in range(20):
        bad = steady.bad_view(picture, number, np.random.default_rng(seed)).astype(float)
        assert bad.shape == picture.shape
        bright, dark = (bad[:, :30], bad[:, 30:]) if number == 2 else (bad[:, -30:], bad[:, :-30])
        assert bright.mean() > dark.mean() + 40


def test_the_command_changes_the_upper_stages_and_nothing_else(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    old = finished(tmp_path / "old")
    (tmp_path / "config.yaml").write_text(json.dumps(asdict(TINY)))
    given = {"model": old, "data": data, "config": tmp_path / "config.yaml"}
    new = tmp_path / "new"
    steady.main([*(f"--{k}={v}" for k, v in given.items()), "--epochs=2", f"--output={new}"])
    assert "32 pictures" in capsys.readouterr().out  # a fifth of the 40 is not learnt from
    assert len(open_cache(new / "maps").index) == 32
    before, after = load_file(old / "model.safetensors"), load_file(new / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    kept = load_captioner(old, device="cpu", runtime="eager")
    upper = {id(p) for stage in kept.encoder.stages()[STAGES:] for p in stage.parameters()}
    may = {name for name, p in kept.named_parameters() if id(p) in upper}
    assert changed
    assert changed <= may
    assert (new / "vocabulary.txt").read_text() == (old / "vocabulary.txt").read_text()


def test_what_was_begun_with_other_pictures_is_not_gone_on_from(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "config.yaml").write_text(json.dumps(asdict(TINY)))
    given = {"model": finished(tmp_path / "old"), "config": tmp_path / "config.yaml"}
    given |= {"output": tmp_path / "new"}
    options = [*(f"--{k}={v}" for k, v in given.items()), "--epochs=1"]
    steady.main([*options, f"--data={data}"])
    write_data(tmp_path / "more", count=50)
    with pytest.raises(SystemExit):
        steady.main([*options, f"--data={tmp_path / 'more'}"])
    assert "holds the maps of other pictures" in capsys.readouterr().err


def test_data_that_are_not_there_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        steady.main([f"--data={tmp_path}", f"--output={tmp_path / 'new'}"])
    assert "no folder there holds captions.jsonl" in capsys.readouterr().err
