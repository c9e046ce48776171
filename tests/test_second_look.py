"""Where the closer look of `benchmarks.second_look` looks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.second_look import SIDE, WINDOW, closer, warmth

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
    window = closer(_with_spot(street, y, x, FLAME), WINDOW)
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
    assert closer(np.full((SIDE, SIDE, 3), 77, np.uint8), 160).shape == (160, 160, 3)
