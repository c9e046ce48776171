"""When a child is started again, as properties of the policy that knows no clock."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.restarts import RestartPolicy

SEEDS = st.integers(0, 2**32)
GAPS_S = st.lists(st.floats(0.0, 100.0), min_size=1, max_size=40)
QUICK_S, SLOW_S = 4.0, 30.0


def policy(seed: int = 0, budget: int = 5, window_s: float = 60.0) -> RestartPolicy:
    return RestartPolicy(budget, window_s, random.Random(seed))


def failures(restarts: RestartPolicy, until_s: float) -> list[tuple[float, float]]:
    """Time of each failure of a source that never answers, and the wait after it, seconds."""
    now_s, found = 0.0, []
    while now_s < until_s:
        wait_s = restarts.after_failure(now_s)
        found.append((now_s, wait_s))
        now_s += wait_s
    return found


@given(SEEDS)
def test_a_source_that_is_away_is_tried_for_ever_quickly_at_first(seed: int):
    found = failures(policy(seed), until_s=3600.0)
    for number, (at_s, wait_s) in enumerate(found):
        limit_s = QUICK_S if at_s < 300.0 else SLOW_S
        most_s = min(limit_s, 0.5 * 2.0**number)
        assert 0.5 * most_s <= wait_s <= most_s
    assert found[-1][1] >= SLOW_S / 2, "after five minutes it is tried seldom"
    assert 100 <= len(found) <= 500


@given(SEEDS)
def test_sources_that_went_together_do_not_come_back_together(seed: int):
    waits = [failures(policy(seed + each), 60.0)[4][1] for each in range(20)]
    assert len(set(waits)) == len(waits)
    assert max(waits) - min(waits) > 0.2 * QUICK_S


@given(SEEDS, st.integers(1, 50))
def test_a_frame_starts_the_back_off_anew(seed: int, attempts: int):
    restarts, now_s = policy(seed), 0.0
    for _ in range(attempts):
        now_s += restarts.after_failure(now_s)
    restarts.frame_came()
    assert restarts.after_failure(now_s + 1000.0) <= 0.5


@given(GAPS_S, st.integers(0, 6), st.floats(1.0, 120.0), SEEDS)
def test_crashes_past_the_budget_of_a_window_are_followed_by_slow_retries(
    gaps_s: list[float], budget: int, window_s: float, seed: int
):
    restarts, now_s, crashes = policy(seed, budget, window_s), 0.0, []
    for gap_s in gaps_s:
        now_s += gap_s
        crashes.append(now_s)
        recent = sum(now_s - at_s <= window_s for at_s in crashes)
        wait_s = restarts.after_crash(now_s)
        assert restarts.exhausted is (recent > budget)
        if restarts.exhausted:
            assert wait_s == SLOW_S
        else:
            assert 0.25 <= wait_s <= 0.5, "back within three seconds"


@given(st.integers(1, 6), st.floats(1.0, 120.0))
def test_a_spent_budget_is_whole_again_after_a_quiet_window(budget: int, window_s: float):
    restarts = policy(0, budget, window_s)
    for _ in range(budget + 1):
        restarts.after_crash(0.0)
    assert restarts.exhausted
    for _ in range(budget):
        restarts.after_crash(2.0 * window_s)
        assert not restarts.exhausted


@pytest.mark.parametrize("what", ["frame_came", "after_failure", "after_refusal"])
def test_a_spent_budget_is_no_matter_once_a_child_does_not_crash(what: str):
    restarts = policy(budget=1)
    for _ in range(2):
        restarts.after_crash(0.0)
    assert restarts.exhausted
    getattr(restarts, what)(*([3600.0] if what == "after_failure" else []))
    assert not restarts.exhausted
    restarts.after_crash(1.0)
    assert restarts.exhausted, "the crashes of the last minute still count"


def test_a_refused_login_is_retried_so_seldom_that_no_account_is_locked():
    restarts = policy()
    assert [restarts.after_refusal() for _ in range(3)] == [SLOW_S] * 3
