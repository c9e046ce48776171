"""The closer look for small fires: where it looks, what it adds, how it is fitted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file
from test_runtimes import openvino_engine, replaying_engine
from tiny_captioner import tiny_captioner
from tiny_training import STAGES, TINY

from models import load_captioner
from models.captioner import Captioner
from models.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from models.closer_look import FIRE, POSSIBLE, CloserLook, warm_spot, warmth
from models.encoders import EncoderError
from models.runtimes.engine import Engine
from models.training import closer
from models.training.concepts import HAZARD_CONCEPTS
from models.training.sources import DataError, read_samples
from pipeline.captioner_child import Windows

SIDE, WINDOW = 256, 56
WORDS = ["<pad>", "<begin>", "<end>", "<unknown>", "a", "fire", "burns", "yard"]
TINY_SIDE = 64
FLAME, LAMP = (255, 170, 40), (235, 235, 235)


def _street(seed: int) -> NDArray[np.uint8]:
    """A dim, slightly noisy picture, (SIDE, SIDE, 3)."""
    noise = np.random.default_rng(seed).normal(90, 4, (SIDE, SIDE, 3))
    return np.clip(noise, 0, 255).astype(np.uint8)


def _with_spot(
    picture: NDArray[np.uint8], y: int, x: int, colour: tuple[int, int, int]
) -> NDArray[np.uint8]:
    spot = picture.copy()
    cv2.circle(spot, (x, y), 6, colour, -1)
    return spot


@pytest.mark.parametrize(("y", "x"), [(128, 60), (8, 8), (250, 128), (40, 249)])
def test_it_looks_where_a_small_flame_is_wherever_that_is(y: int, x: int) -> None:
    street = _street(seed=y)
    spot = warm_spot(_with_spot(street, y, x, FLAME), WINDOW)
    window = spot.picture
    assert spot.left <= x / SIDE < spot.left + spot.size
    assert spot.top <= y / SIDE < spot.top + spot.size
    assert window.shape == (WINDOW, WINDOW, 3)
    burning = np.abs(window.astype(int) - FLAME).max(2) < 20
    whole = np.abs(_with_spot(street, y, x, FLAME).astype(int) - FLAME).max(2) < 20
    assert burning.sum() == whole.sum() > 0


def test_of_two_spots_the_warm_one_counts_and_on_grey_pictures_the_brighter() -> None:
    both = _with_spot(_with_spot(_street(1), 60, 60, LAMP), 190, 190, FLAME)
    y, x = divmod(int(warmth(both).argmax()), SIDE)
    assert max(abs(y - 190), abs(x - 190)) < 10
    grey = np.repeat(both.mean(2, keepdims=True).astype(np.uint8), 3, 2)
    y, x = divmod(int(warmth(grey).argmax()), SIDE)
    assert max(abs(y - 60), abs(x - 60)) < 10


def test_a_picture_without_any_contrast_has_no_spot() -> None:
    assert warmth(np.full((SIDE, SIDE, 3), 77, np.uint8)).max() < 1e-3
    assert warm_spot(np.full((SIDE, SIDE, 3), 77, np.uint8), 160).picture.shape == (160, 160, 3)


def _captioner(*, likelier: float | None, fire: float = 0.1) -> Captioner:
    """A captioner that says the same of every whole picture, and the same of every spot."""
    captioner = tiny_captioner(
        WORDS,
        TINY_SIDE,
        seed=4,
        concepts=HAZARD_CONCEPTS,
        evidence_after=STAGES,
        hazard_count=len(HAZARD_CONCEPTS),
        hazards_condition=True,
    )
    assert captioner.decoder.readout is not None
    captioner.decoder.readout.offset += torch.logit(torch.tensor(fire))
    if likelier is not None:
        look = CloserLook(captioner.encoder.channels_after(STAGES), STAGES)
        look.offset += likelier
        captioner.closer = look
    return captioner


def _clips(count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (2, 48, 80, 3), np.uint8) for _ in range(count)]


@settings(max_examples=20, deadline=None)
@given(likelier=st.floats(-8, 8), fire=st.floats(0.01, 0.95))
def test_its_nats_are_added_to_what_whole_pictures_say_of_fires_alone(likelier: float, fire: float):
    before = _captioner(likelier=None, fire=fire).detect(_clips(2), HAZARD_CONCEPTS)
    after = _captioner(likelier=likelier, fire=fire).detect(_clips(2), HAZARD_CONCEPTS)
    column = HAZARD_CONCEPTS.index(FIRE)
    logits = np.log(before[:, column] / (1 - before[:, column]))
    np.testing.assert_allclose(after[:, column], 1 / (1 + np.exp(-logits - likelier)), atol=1e-5)
    others = np.delete(np.arange(len(HAZARD_CONCEPTS)), column)
    np.testing.assert_array_equal(after[:, others], before[:, others])


def test_where_a_fire_is_hardly_possible_nobody_looks_closer():
    captioner = _captioner(likelier=9.0, fire=POSSIBLE / 2)
    assert captioner.detect(_clips(1), [FIRE])[0, 0] == pytest.approx(POSSIBLE / 2, rel=1e-4)


def test_a_window_without_a_spot_goes_by_whole_pictures():
    captioner = _captioner(likelier=3.0)
    (with_spot,) = captioner.windows(_clips(1))
    assert with_spot[-1] is not None
    windows = [with_spot[:3], with_spot[:2], with_spot]
    probabilities, places = captioner.detect_windows(windows, [FIRE])
    assert probabilities[2, 0] > 0.5
    np.testing.assert_allclose(probabilities[:2, 0], 0.1, atol=1e-5)
    np.testing.assert_array_equal(places[0], places[1])
    assert (places[2] - places[0]).max() == pytest.approx(3.0, abs=1e-4)
    assert _captioner(likelier=None).windows(_clips(1))[0][-1] is None


@pytest.mark.parametrize("likelier", [6.0, -6.0])
def test_where_it_finds_a_fire_is_where_its_spot_was(likelier: float):
    picture = np.stack((_street(3), _with_spot(_street(3), 200, 60, FLAME)))
    words = [FIRE, "smoke"]
    _, (before,) = _captioner(likelier=None).detect([picture], words, return_regions=True)
    _, (after,) = _captioner(likelier=likelier).detect([picture], words, return_regions=True)
    added = after - before
    np.testing.assert_array_equal(added[1], 0)
    if likelier < 0:
        np.testing.assert_array_equal(added[0], 0)
        return
    np.testing.assert_array_equal(added[0, 0], 0)
    rows, columns = np.nonzero(added[0, -1])
    np.testing.assert_allclose(added[0, -1][rows, columns], likelier, rtol=1e-5)
    height, width = added.shape[2:]
    assert np.abs((rows + 0.5) / height - 200 / SIDE).max() < WINDOW / SIDE
    assert np.abs((columns + 0.5) / width - 60 / SIDE).max() < WINDOW / SIDE


def test_words_that_are_no_hazards_are_detected_without_hazards():
    captioner = tiny_captioner(
        WORDS,
        TINY_SIDE,
        seed=4,
        concepts=[*HAZARD_CONCEPTS, "yard"],
        hazard_count=len(HAZARD_CONCEPTS),
    )
    clips = _clips(2)
    both, places = captioner.detect(clips, ["yard", FIRE], return_regions=True)
    alone, there = captioner.detect(clips, ["yard"], return_regions=True)
    np.testing.assert_allclose(alone[:, 0], both[:, 0], rtol=1e-5)
    for one, other in zip(places, there, strict=True):
        np.testing.assert_allclose(one[0], other[0], rtol=1e-5)


@pytest.fixture
def seeing() -> Captioner:
    """One whose closer look depends on what it sees."""
    captioner = _captioner(likelier=0.0)
    assert captioner.closer is not None
    torch.manual_seed(2)
    captioner.closer.weights += torch.randn_like(captioner.closer.weights)
    return captioner


def test_a_batch_of_windows_is_seen_as_each_alone(seeing: Captioner):
    clips = _clips(5, seed=1)
    together = seeing.detect(clips, [FIRE])
    assert together.std() > 1e-3
    alone = np.concatenate([seeing.detect([clip], [FIRE]) for clip in clips])
    np.testing.assert_allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("engine", [openvino_engine, replaying_engine])
def test_every_runtime_sees_the_same(seeing: Captioner, engine: Callable[[Captioner], Engine]):
    clips = _clips(3, seed=2)
    expected = seeing.detect(clips, [FIRE])
    seeing.run_on(engine(seeing))
    np.testing.assert_allclose(seeing.detect(clips, [FIRE]), expected, atol=1e-3)


def test_it_survives_a_checkpoint(tmp_path: Path, seeing: Captioner):
    assert seeing.closer is not None
    seeing.closer.weights *= 1e-7  # too small for half precision
    save_checkpoint(tmp_path, seeing)
    loaded = load_checkpoint(tmp_path, "closer", torch.device("cpu"))
    assert loaded.closer is not None
    assert loaded.closer.after == seeing.closer.after
    torch.testing.assert_close(loaded.closer.weights, seeing.closer.weights, rtol=0, atol=0)


def test_without_evidence_of_fires_there_is_nothing_to_add_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = tiny_captioner(WORDS, TINY_SIDE, seed=4, concepts=["yard"])
    save_checkpoint(tmp_path / "old", other)
    with pytest.raises(SystemExit):
        _fit(tmp_path)
    assert "no evidence of a fire" in capsys.readouterr().err
    other.closer = CloserLook(other.encoder.channels_after(STAGES), STAGES)
    save_checkpoint(tmp_path / "wrong", other)
    with pytest.raises(CheckpointError, match="fire is no hazard"):
        load_checkpoint(tmp_path / "wrong", "wrong", torch.device("cpu"))


def test_the_newest_frame_of_a_window_is_the_one_looked_at():
    captioner = _captioner(likelier=0.0)
    quiet, burning = _street(1), _with_spot(_street(1), 60, 60, FLAME)
    (window,) = captioner.windows([np.stack((quiet, burning))])
    small = cv2.resize(burning, (TINY_SIDE, TINY_SIDE), interpolation=cv2.INTER_AREA)
    assert np.abs(window[-1].picture.astype(int) - warm_spot(small).picture).mean() < 3
    windows = Windows(length=3)
    windows.push("gate", "features", 0.0, True)
    assert windows.window("gate", "spot") == (["features"], [0.0], [True], "spot")


def _yard(seed: int, *, burns: bool) -> NDArray[np.uint8]:
    """A dim yard, RGB, with a white lamp; or a small flame in its place."""
    random = np.random.default_rng(seed)
    y, x = random.integers(40, 210, 2).tolist()
    return _with_spot(_street(seed), y, x, FLAME if burns else LAMP)


def _write_data(folder: Path, count: int = 40) -> None:
    (folder / "yard" / "images").mkdir(parents=True)
    lines = []
    for n in range(count):
        burns = n % 2 == 1
        picture = _yard(n, burns=burns)[:, :, ::-1]
        cv2.imwrite(str(folder / "yard" / "images" / f"{n}.png"), picture)
        line = {"image": f"{n}.png", "scene": f"s{n}", "captions": ["a yard"]}
        line |= {"hazard": [FIRE] if burns else [], "split": "train" if n % 5 else "val"}
        lines.append(json.dumps(line) + "\n")
    (folder / "yard" / "captions.jsonl").write_text("".join(lines))


def _fit(tmp_path: Path, *options: str) -> Path:
    (tmp_path / "config.yaml").write_text(json.dumps(asdict(TINY)))
    given = {"model": "old", "data": "data", "config": "config.yaml", "output": "new"}
    closer.main([*(f"--{name}={tmp_path / place}" for name, place in given.items()), *options])
    return tmp_path / "new"


def test_fitted_it_tells_small_flames_from_lamps_and_leaves_all_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    _write_data(tmp_path / "data")
    save_checkpoint(tmp_path / "old", _captioner(likelier=None))
    new = _fit(tmp_path)
    served = load_captioner(new, runtime="eager")
    pictures = [_yard(100 + n, burns=n % 2 == 1) for n in range(10)]
    fire = served.detect(pictures, [FIRE])[:, 0]
    assert fire[1::2].min() > 0.1 > fire[::2].max()
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("old", "new"))
    assert after.keys() - before.keys() == {"closer.weights", "closer.offset"}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert "20 of 40 pictures burn" in capsys.readouterr().out


def test_channels_are_told_where_the_encoder_is():
    encoder = tiny_captioner(WORDS, TINY_SIDE, seed=4).encoder
    expected = encoder.channels_after(STAGES)
    assert encoder.to("meta").channels_after(STAGES) == expected
    with pytest.raises(EncoderError, match="stages, not 99"):
        encoder.channels_after(99)


def test_pictures_that_are_not_there_are_refused(tmp_path: Path):
    _write_data(tmp_path / "data")
    samples = read_samples(tmp_path / "data")
    captioner = _captioner(likelier=None)
    spots = closer.look_closer(captioner, tmp_path / "data", samples[:39], STAGES)
    assert len(spots.samples) == len(spots.features) == len(spots.burns) == 39
    (tmp_path / "data" / "yard" / "images" / "7.png").unlink()
    with pytest.raises(DataError, match=r"1 of 40 .* not there, first yard/images/7\.png"):
        closer.look_closer(captioner, tmp_path / "data", samples, STAGES)
    with pytest.raises(DataError, match="no picture of these splits"):
        closer.look_closer(captioner, tmp_path / "data", [], STAGES)


def test_without_a_fire_among_the_pictures_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    _write_data(tmp_path / "data", count=1)
    save_checkpoint(tmp_path / "old", _captioner(likelier=None))
    with pytest.raises(SystemExit):
        _fit(tmp_path)
    assert "with and without a fire" in capsys.readouterr().err
