"""The speed benchmarks: that ours finds what the others find, and that all run to their end."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_captioner import tiny_captioner

from benchmarks import curves, static_scene
from benchmarks.clips import light_clip
from benchmarks.live import watching
from benchmarks.tutorial_decoder import (
    BEGIN,
    END,
    FEATURES,
    REGIONS,
    GraphStep,
    SharedRows,
    TutorialDecoder,
    tutorial_search,
)
from models.checkpoint import save_checkpoint
from models.search import SearchConfig, search

WORDS = ["<pad>", "<begin>", "<end>", "<unknown>", "a", "man", "runs", "dog"]


@given(st.data())
def test_rows_share_a_state_exactly_where_they_continue_the_same_row(data: st.DataObject) -> None:
    images, before, beams = (data.draw(st.integers(1, most)) for most in (4, 5, 7))
    beam = st.integers(0, before - 1)
    rows = [[data.draw(beam) + i * before for _ in range(beams)] for i in range(images)]
    number = torch.tensor(rows).view(-1, 1)
    shared = SharedRows.of(number, images, before)
    # Each row finds its own state again, alone or among those of its image.
    assert torch.equal(number[shared.first][shared.state], number)
    looked = shared.slots.view(-1)[shared.place]
    assert torch.equal(number[shared.first][looked], number[shared.first])
    image = torch.arange(images).unsqueeze(1).expand_as(shared.slots)
    assert torch.equal(number[shared.first][shared.slots].squeeze(-1) // before, image)
    assert len(shared.first) <= len(number)


@pytest.mark.parametrize("beam", [1, 5])
def test_the_shared_step_finds_the_words_that_the_tutorials_search_finds(beam: int) -> None:
    torch.manual_seed(1)
    decoder, steps = TutorialDecoder().eval(), 6
    # As they come from their initialisation, all pictures get the same words: make it take sides.
    for parameter in decoder.parameters():
        parameter.data.mul_(3.0)
    images = 5
    features = torch.relu(torch.randn(images, REGIONS, FEATURES) + torch.randn(images, 1, FEATURES))
    config = SearchConfig(BEGIN, END, beam, max_length=steps, forbidden=(END,), check_every=steps)
    step = GraphStep(decoder)
    with torch.inference_mode():
        found = [list(best[0].tokens) for best in search(step, step.bind(features), config)]
        assert found == tutorial_search(decoder, features, beam, steps)
    assert len({tuple(words) for words in found}) == images


def test_a_still_scene_is_measured_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "tiny", tiny_captioner(WORDS, 64, seed=1))
    tiny = {"model": {"name": str(tmp_path / "tiny")}}

    def watch(*arguments: Any) -> Any:
        settings: Mapping[str, object] = arguments[3] if len(arguments) > 3 else {}
        return watching(*arguments[:3], {**settings, **tiny})

    monkeypatch.setattr(static_scene, "watching", watch)
    # Small and five frames a second, so that the machine is not busy with decoding.
    monkeypatch.setattr(static_scene, "still", lambda folder, _: folder / light_clip(folder))
    monkeypatch.setattr(static_scene, "_SETTLE_S", 0.0)
    # Programs, cameras and captions are real; what they spend so soon is less than /proc tells.
    looks: Counter[int] = Counter()

    def spent_s(pid: int) -> float:
        looks[pid] += 1
        gated, ungated, decoding = 0.2, 0.6, 0.1
        return looks[pid] * dict(zip(looks, (gated, ungated, decoding), strict=False))[pid]

    monkeypatch.setattr(static_scene, "tree_cpu_s", spent_s)
    file = tmp_path / "found.json"
    arguments = ["--rounds", "2", "--seconds", "1", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["static_scene", *arguments])
    static_scene.main()
    found = json.loads(file.read_text())
    spent, captions = found["CPU ms a second"], found["captions"]
    assert {name: len(each) for name, each in spent.items()} == dict.fromkeys(
        ("gated", "ungated", "decoding"), 2
    )
    assert {name: len(each) for name, each in captions.items()} == {"gated": 2, "ungated": 2}
    assert len(looks) == 3  # three families of processes
    assert found["ratios"] == pytest.approx([0.2, 0.2])  # (0.2 - 0.1) / (0.6 - 0.1)
    assert found["gated / ungated"] == pytest.approx(0.2)


def test_curves_are_measured_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    tiny = tiny_captioner(WORDS, 64, seed=2)
    monkeypatch.setattr(curves, "load_captioner", lambda *_: tiny)

    def load(cameras: int, captions: int) -> dict[str, Any]:
        cpu_s = {"main": 0.1 * cameras, "grabber": 0.4 * cameras}
        return {"cameras": cameras, "seconds": 5.0, "captions": captions, "cpu_s": cpu_s}

    # At four cameras each has half of its captions: the machine is too small, the curve ends.
    loads = {"loads": [load(1, 5), load(2, 10), load(4, 10)]}
    (tmp_path / "live-key-frames.json").write_text(json.dumps(loads))
    monkeypatch.setattr(sys, "argv", ["curves", "--quick", "--output", str(tmp_path)])
    curves.main()
    panels = json.loads((tmp_path / "curves.json").read_text())["panels"]
    assert [panel["along"] for panel in panels] == [
        "beam size",
        "captions in a batch",
        "side of the frame, pixels",
        "live cameras",
    ]
    for panel in panels:
        for curve in panel["curves"].values():
            assert len(curve) == 2
            assert all(ms > 0 for _, ms in curve)
    (cameras,) = panels[-1]["curves"].values()
    np.testing.assert_allclose(cameras, [(1, 100.0), (2, 100.0)])
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture.std() > 0
