"""When a camera is blind: on real pictures, darkened, covered and blurred."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import cv2
import numpy as np
import pytest
from capture_run import CLIPS
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.pictures import black_out, measure, unmasked
from pipeline.sight import Blindness, PictureMeasures, SightJudge, blindness_of

START = datetime(2026, 11, 25, tzinfo=timezone.utc)
CLEAR = PictureMeasures(brightest=220.0, spread=50.0, blur=0.3, detail=0.4, change=2.0)
SHOWING = {
    Blindness.BLACK: replace(CLEAR, brightest=10.0),
    Blindness.COVERED: replace(CLEAR, spread=3.0),
    Blindness.DEFOCUSED: replace(CLEAR, blur=0.8),
    Blindness.FROZEN: replace(CLEAR, change=0.0),
}
pictures = st.sampled_from([CLEAR, *SHOWING.values()])


@pytest.fixture(scope="module", params=["bikes.mp4", "carphone_pristine.mp4"])
def grey(request: pytest.FixtureRequest) -> NDArray[np.uint8]:
    _, image = cv2.VideoCapture(str(CLIPS / request.param)).read()
    return cv2.cvtColor(cv2.resize(image, (224, 224)), cv2.COLOR_BGR2GRAY)


def test_a_real_picture_is_seen(grey: NDArray[np.uint8]):
    assert blindness_of(measure(grey)) is None


def test_a_spoilt_picture_is_told_with_its_kind(grey: NDArray[np.uint8]):
    dark = np.random.default_rng(0).integers(0, 12, grey.shape).astype(np.uint8)
    hand = (90 + 4 * np.random.default_rng(0).standard_normal(grey.shape)).astype(np.uint8)
    blurred = cv2.GaussianBlur(grey, (0, 0), 6)
    assert blindness_of(measure(dark)) is Blindness.BLACK
    assert blindness_of(measure(hand)) is Blindness.COVERED
    assert blindness_of(measure(blurred)) is Blindness.DEFOCUSED
    assert blindness_of(measure(grey, grey)) is Blindness.FROZEN


def test_a_mask_is_no_blindness_and_its_edge_no_detail(grey: NDArray[np.uint8]):
    masks = [[(0.0, 0.0), (0.7, 0.0), (0.7, 1.0), (0.0, 1.0)]]
    masked, blurred = grey.copy(), cv2.GaussianBlur(grey, (0, 0), 8)
    black_out(masked, masks)
    black_out(blurred, masks)
    keep = unmasked(224, masks)
    assert not masked[:, :150].any()
    assert masked[:, 170:].any()
    assert blindness_of(measure(masked, keep=keep)) is None
    assert blindness_of(measure(blurred, keep=keep)) is not None


@given(st.lists(st.tuples(st.floats(0.05, 4.0), pictures), min_size=1, max_size=80))
def test_a_verdict_is_held_for_its_time_before_it_is_given(
    steps: list[tuple[float, PictureMeasures]],
):
    judge, time_s = SightJudge(10.0, 30.0, 3.0), 0.0
    history: list[tuple[float, Blindness | None]] = []
    for gap_s, picture in steps:
        time_s += gap_s
        before = judge.verdict
        judge.look(picture, time_s, START + timedelta(seconds=time_s))
        history.append((time_s, blindness_of(picture)))
        if judge.verdict is before:
            continue
        verdict = judge.verdict
        held_s = {None: 3.0, Blindness.FROZEN: 30.0}.get(verdict.blind, 10.0)
        since_s = (verdict.since - START).total_seconds()
        assert time_s - since_s >= held_s - 1e-5
        assert {shown for at, shown in history if at >= since_s - 1e-5} == {verdict.blind}
        assert before is None or before.blind is not verdict.blind


def test_between_the_two_limits_nothing_changes():
    judge = SightJudge(10.0, 30.0, 3.0)
    nearly = replace(CLEAR, brightest=48.0)  # darker than what counts as clear, not yet black

    def show(picture: PictureMeasures, seconds: range) -> Blindness | None:
        for second in seconds:
            judge.look(picture, float(second), START + timedelta(seconds=second))
        return judge.verdict.blind

    assert show(nearly, range(20)) is None
    assert show(SHOWING[Blindness.BLACK], range(20, 40)) is Blindness.BLACK
    assert show(nearly, range(40, 60)) is Blindness.BLACK
    assert show(CLEAR, range(60, 70)) is None
