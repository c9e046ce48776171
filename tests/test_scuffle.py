"""Motion that goes every way at once: its numbers, and which picture comes before a look."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.captioner_child import Windows
from pipeline.frame_clock import Ticks, TokenBucket
from pipeline.moving import MotionWatch
from pipeline.pictures import Picture
from pipeline.scuffle import Grey, log_odds, motion_picture, probability_of, scuffle_numbers

LOOKS = st.lists(st.none() | st.floats(-50, 50), max_size=8)


def ground(seed: int, rows: int = 108) -> Grey:
    noise = np.random.default_rng(seed).integers(0, 256, (rows, 192)).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 2.0) // 2 + 60, np.uint8)


def with_patches(by: list[tuple[int, int]], seed: int, moved: bool) -> Grey:
    """Patches of 16 pixels side by side in the middle of a still ground, each at its own place."""
    scene = ground(1)
    for number, (right, down) in enumerate(by):
        texture = np.random.default_rng([seed, number]).integers(0, 256, (4, 4)).astype(np.uint8)
        patch = cv2.resize(texture, (16, 16), interpolation=cv2.INTER_CUBIC)
        x, y = 48 + 24 * (number % 4), 18 + 24 * (number // 4)
        x, y = (x + right, y + down) if moved else (x, y)
        scene[y : y + 16, x : x + 16] = patch
    return scene


def pair(by: list[tuple[int, int]], seed: int) -> tuple[Grey, Grey]:
    return with_patches(by, seed, moved=False), with_patches(by, seed, moved=True)


def test_what_stands_still_is_no_scuffle() -> None:
    scene = ground(3)
    noisy = np.clip(scene + np.random.default_rng(4).normal(0, 2, scene.shape), 0, 255)
    assert scuffle_numbers(scene, scene, 0.1) == (1.0, 0.0, 0.0, 0.0)
    for now in (scene, noisy.astype(np.uint8)):
        assert log_odds(scene, now, 0.1) < -1


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([(3, 0), (-3, 1), (0, 3), (2, -2)]))
def test_what_goes_every_way_looks_more_like_it_than_what_moves_in_one_piece(
    seed: int, step: tuple[int, int]
) -> None:
    ways = [(3, 0), (-3, 0), (0, 3), (0, -3)] * 3
    together, apart = pair([step] * 12, seed), pair(ways, seed)
    one_piece, every_way = scuffle_numbers(*together, 0.1), scuffle_numbers(*apart, 0.1)
    assert one_piece[0] > every_way[0]  # coherence
    assert one_piece[1] < every_way[1]  # what affine motion leaves
    assert log_odds(*apart, 0.1) > log_odds(*together, 0.1) + 1


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_another_light_changes_little(seed: int) -> None:
    before, now = (shown // 2 for shown in pair([(3, 1), (-3, 0), (1, 3), (0, -3)] * 3, seed))
    lighter = log_odds(before + np.uint8(40), now + np.uint8(40), 0.1)
    assert log_odds(before, now, 0.1) == pytest.approx(lighter, abs=0.5)


def test_pictures_are_made_small_in_their_own_aspect() -> None:
    assert motion_picture(np.zeros((1080, 1920, 3), np.uint8)).shape == (108, 192)
    assert motion_picture(np.zeros((20, 2000, 3), np.uint8)).shape == (32, 192)


@given(LOOKS)
def test_looks_that_are_unknown_count_for_nothing(looks: list[float | None]) -> None:
    known = [look for look in looks if look is not None]
    assert probability_of(looks) == probability_of(known)
    assert (probability_of(looks) is None) is (len(known) < 2)


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=5))
def test_a_window_lies_between_its_looks(looks: list[float]) -> None:
    found = probability_of(looks)
    assert found is not None
    low, high = (1 / (1 + np.exp(-bound)) for bound in (min(looks), max(looks)))
    assert low - 1e-9 <= found <= high + 1e-9


def test_a_cameras_window_forgets_how_things_moved_with_the_rest() -> None:
    windows = Windows(length=3)
    for at_s, look in ((0.0, None), (0.4, 2.0)):
        windows.push("gate", None, at_s, True, look)
    assert windows.scuffle("gate") is None
    windows.push("gate", None, 0.8, True, 2.0)
    assert windows.scuffle("gate") == pytest.approx(0.88, abs=0.01)
    windows.push("gate", None, 60.0, True, 2.0)  # after a gap: the window begins anew
    assert windows.scuffle("gate") is None
    assert len(windows.window("gate")) == 4


# Which picture comes before a look

PICTURE = Picture(np.zeros((108, 192, 3), np.uint8), 192, 108)


def looks_at(rate: float, live: bool = False, seconds: float = 6.0) -> list[float | None]:
    """What a camera's looks, 2.5 a second, are told of motion; times of live frames waver."""
    watch, sampler = MotionWatch(), TokenBucket(2.5) if live else Ticks(2.5)
    waver = np.random.default_rng(0).uniform(-0.3, 0.3, round(rate * seconds)) * live
    told: list[float | None] = []
    for number, late in enumerate(waver):
        time_s = float(number + late + 1.0) / rate
        wanted = sampler.take(time_s)
        watch.note(time_s)
        if wanted:
            told.append(watch.look(PICTURE))
        if watch.wants(sampler.next_s):
            watch.keep(PICTURE)
    return told


@pytest.mark.parametrize("rate", [6, 8, 10, 12.5, 15, 20, 25, 29.97, 30, 50, 60])
def test_every_second_look_has_a_picture_from_shortly_before(rate: float) -> None:
    told = looks_at(rate)
    assert len(told) >= 14
    assert all((look is None) is (number % 2 == 0) for number, look in enumerate(told))


@pytest.mark.parametrize("rate", [10, 15, 25, 30])
def test_nearly_as_many_looks_of_a_live_camera_have_one(rate: float) -> None:
    told = looks_at(rate, live=True, seconds=20)
    assert sum(look is not None for look in told) >= 0.4 * len(told)


@pytest.mark.parametrize("rate", [0.5, 1, 2.5, 5])
def test_slow_cameras_and_key_frames_leave_it_unknown(rate: float) -> None:
    assert set(looks_at(rate, seconds=20)) == {None}


def test_a_broken_picture_a_jump_in_time_and_another_size_leave_it_unknown() -> None:
    watch = MotionWatch()

    def noted(*tenths: int) -> MotionWatch:
        for tenth in tenths:
            watch.note(tenth / 10)
        return watch

    noted(0, 1, 2, 3).keep(None)
    assert noted(4).look(PICTURE) is None
    noted(5, 6, 7).keep(PICTURE)
    assert noted(8).look(Picture(np.zeros((144, 192, 3), np.uint8), 192, 144)) is None
    noted(9, 10, 11).keep(PICTURE)
    assert noted(12).look(PICTURE) is not None
    assert not noted(13, 14, 15).wants(1.6)  # the next look rests
    assert noted(16).look(PICTURE) is None
    assert noted(17, 18, 19).wants(2.0)
    watch.keep(PICTURE)
    assert noted(0).look(PICTURE) is None
