"""The captioner stage and its child: want of memory, captions without an end, a hang."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from captioner_fakes import SIDE
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batch_limit import (
    BatchLimit,
    best_batch_size,
    is_out_of_memory,
    most_that_fits,
)
from pipeline.batcher import Batch
from pipeline.captioner import CaptionedFrame, CaptionerError, CaptionerProcess, CaptionerStage
from pipeline.captioner_messages import CaptionerOptions
from pipeline.ledger import Ledger
from pipeline.messages import FrameRef, FrameStamp
from pipeline.restarts import RestartBudget
from pipeline.slots import FrameSlots, SlotLayout

START = datetime(2026, 11, 25, tzinfo=timezone.utc)


class Frames:
    """One camera's slots, as the capture keeps them; frame i has the brightness given."""

    def __init__(self, slots: FrameSlots, brightness: list[int]) -> None:
        self.slots = slots
        self.released: list[int] = []
        self.refs = []
        for i, level in enumerate(brightness):
            slots.square(i)[:] = level
            stamp = FrameStamp("c", i, START + timedelta(seconds=i), i * 10**9)
            self.refs.append(FrameRef(stamp, i, 1, 1, segment=slots.layout.segment))

    def layout_of(self, ref: FrameRef) -> SlotLayout:
        return self.slots.layout

    def release(self, ref: FrameRef) -> None:
        self.released.append(ref.slot)

    def holds(self, camera: str) -> bool:
        return True


@contextmanager
def stage(
    fake: str,
    brightness: list[int],
    timeout_s: float = 30.0,
    measure: bool = False,
    window_frames: int = 1,
    concepts: tuple[str, ...] = (),
) -> Iterator[tuple[CaptionerStage, Frames, Ledger]]:
    slots = FrameSlots.create("test", len(brightness), SIDE, 1)
    options = CaptionerOptions(
        f"captioner_fakes:{fake}",
        "m",
        window_frames=window_frames,
        concepts=concepts,
        measure_batch=measure,
        max_batch_frames=16,
    )
    process, ledger = CaptionerProcess(options, timeout_s), Ledger()
    try:
        frames = Frames(slots, brightness)
        made = CaptionerStage(process, frames, ledger, RestartBudget(5, 60.0))
        made.ready = process.start()
        yield made, frames, ledger
    finally:
        process.kill()
        slots.close()
        slots.unlink()


def captions_of(made: CaptionerStage, frames: Frames) -> list[CaptionedFrame]:
    return [one for one in made.process([batch(frames)]) if isinstance(one, CaptionedFrame)]


def batch(frames: Frames) -> Batch:
    return Batch(tuple(frames.refs), (True,) * len(frames.refs))


@pytest.mark.fault
def test_want_of_memory_halves_the_batch_and_loses_nothing(caplog: pytest.LogCaptureFixture):
    levels = list(range(10, 21))
    with stage("cramped", levels) as (captioner, frames, ledger):
        for _ in range(2):
            captioned = list(captioner.process([batch(frames)]))
            assert [frame.caption.text for frame in captioned] == [str(level) for level in levels]
    books = ledger.books("c")
    assert (books.encoded, books.windows_failed, books.captioned) == (22, {}, 22)
    told = [record.getMessage() for record in caplog.records]
    assert told == ["out of memory; the captioner takes 2 frames at once now"]


@pytest.mark.fault
def test_each_window_brings_what_is_to_be_seen_closer_of_its_newest_frame():
    with stage("spotting", [40, 90, 10, 70], window_frames=2) as (made, frames, _):
        sent = Batch(tuple(frames.refs), (False, True, False, True))
        said = [one.caption.text for one in made.process([sent]) if isinstance(one, CaptionedFrame)]
    assert said == ["90", "70"]


@pytest.mark.fault
def test_how_things_move_stands_beside_what_the_model_says_where_it_is_known_and_asked_for():
    with stage("plain", [1, 2, 3], window_frames=3, concepts=("scuffle",)) as (made, frames, _):
        assert made.ready is not None and made.ready.unknown_concepts == ()
        looks = zip(frames.refs, (None, 2.0, 3.0), strict=True)
        frames.refs = [replace(ref, scuffle=look) for ref, look in looks]
        said = [one.caption.concepts for one in captions_of(made, frames)]
    assert said[:2] == [{}, {}]  # of one look alone nothing can be told
    assert said[2]["scuffle"].probability == pytest.approx(0.92, abs=0.01)
    with stage("plain", [1, 2, 3], window_frames=3) as (made, frames, _):
        frames.refs = [replace(ref, scuffle=2.0) for ref in frames.refs]
        assert [one.caption.concepts for one in captions_of(made, frames)] == [{}] * 3


def test_the_batch_size_is_measured_once_and_fits_the_memory():
    with stage("cramped", [1], measure=True) as (captioner, _, _):
        assert captioner.ready.batch_frames in (1, 2)
        assert captioner._process._options.measure_batch is False


@pytest.mark.fault
def test_captions_without_an_end_go_on_and_are_counted_and_those_without_words_do_not():
    with stage("unsure", [200, 50, 0]) as (captioner, frames, ledger):
        captioned = list(captioner.process([batch(frames)]))
    assert [(f.caption.text, f.caption.finished) for f in captioned] == [
        ("200", True),
        ("50", False),
    ]
    books = ledger.books("c")
    assert (books.captioned, books.partial, books.windows_failed) == (2, 1, {"no_words": 1})
    assert frames.released == [2]


@pytest.mark.fault
def test_a_stopped_child_is_replaced_and_its_batch_booked(caplog: pytest.LogCaptureFixture):
    with stage("hanging", [255, 7], timeout_s=2.0) as (captioner, frames, ledger):
        assert list(captioner.process([batch(frames)])) == []
        after = Batch(tuple(frames.refs[1:]), (True,))
        assert [frame.caption.text for frame in captioner.process([after])] == ["7"]
    assert ledger.books("c").failed == {"captioner_hung": 2}
    assert frames.released == [0, 1]
    assert "gave no answer for 2 s; starting it again" in caplog.text
    assert caplog.records[-1].levelno == logging.WARNING


@pytest.mark.fault
def test_a_captioner_that_has_become_slow_is_given_ever_more_time():
    with stage("ponderous", [7], timeout_s=0.25) as (captioner, frames, ledger):
        tries = [list(captioner.process([batch(frames)])) for _ in range(6)]
    assert tries[0] == [], "else the fake is not slow enough to show anything"
    assert tries[-1], "it answers once it is waited for"
    assert ledger.books("c").captioned == sum(map(bool, tries))


@pytest.mark.fault
def test_a_captioner_that_never_answers_ends_the_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.captioner._MOST_SILENCES", 2)
    with stage("hanging", [255], timeout_s=0.5) as (captioner, frames, ledger):
        assert list(captioner.process([batch(frames)])) == []
        with pytest.raises(CaptionerError, match="too often to go on"):
            list(captioner.process([batch(frames)]))
    assert ledger.books("c").failed == {"captioner_hung": 2}


@pytest.mark.fault
def test_a_model_that_loads_slowly_is_waited_for_at_the_start_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("pipeline.captioner.LOAD_TIMEOUT_S", 0.01)
    options = CaptionerOptions("captioner_fakes:plain", "m", window_frames=1, measure_batch=False)
    process = CaptionerProcess(options, 30.0)
    try:
        assert process.start(first=True).identity == "fake"
        assert "waiting on" in caplog.text
        process.kill()
        with pytest.raises(CaptionerError, match="has not loaded its model"):
            process.start()
    finally:
        process.kill()


@pytest.mark.fault
def test_a_child_that_still_loads_goes_with_a_killed_parent():
    parent_code = """
from pipeline.captioner import CaptionerProcess
from pipeline.captioner_messages import CaptionerOptions
CaptionerProcess(CaptionerOptions("captioner_fakes:never_loads", "m"), 60.0).start()
"""
    tests = Path(__file__).parent
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"},
    )
    assert parent.stdout.readline() == "loading\n"
    parent.kill()
    parent.communicate(timeout=60)  # returns once the child, too, has let go of its end of stdout


# The limit itself


@given(
    counts=st.lists(st.integers(0, 40), max_size=8),
    most=st.integers(1, 32),
    room=st.integers(1, 32),
)
def test_all_items_are_done_once_and_in_order(counts: list[int], most: int, room: int):
    limit, run = BatchLimit(most), []

    def work(part: list[int]) -> list[int]:
        if len(part) > room:
            raise MemoryError
        run.extend(part)
        return [10 * item for item in part]

    for count in counts:
        assert limit.run(list(range(count)), work) == [10 * item for item in range(count)]
    assert run == [item for count in counts for item in range(count)]
    assert 1 <= limit.size <= most


def test_the_limit_grows_again_up_to_its_most():
    limit, room = BatchLimit(16), [2]

    def work(part: list[int]) -> list[int]:
        if len(part) > room[0]:
            raise MemoryError
        return list(part)

    limit.run(list(range(16)), work)
    assert (limit.size, limit.halvings) == (2, 3)
    room[0] = 100
    for _ in range(200):
        limit.run(list(range(16)), work)
    assert limit.size == 16


def test_one_item_too_many_and_other_errors_are_raised():
    def fail(error: Exception) -> None:
        def work(part: list[int]) -> list[int]:
            raise error

        BatchLimit(8).run([1, 2, 3, 4], work)

    with pytest.raises(MemoryError):
        fail(MemoryError())
    with pytest.raises(RuntimeError, match="shapes"):
        fail(RuntimeError("shapes differ"))


def test_memory_errors_are_told_from_others():
    class OutOfMemoryError(RuntimeError):
        pass

    assert is_out_of_memory(OutOfMemoryError("CUDA"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    ("fixed_s", "each_s", "expected"),
    [(0.0, 0.01, 32), (0.1, 0.001, 32), (0.1, 0.01, 32), (0.1, 0.02, 16), (1.0, 0.1, 1)],
)
def test_the_largest_batch_that_pays_within_the_budget_is_found(
    fixed_s: float, each_s: float, expected: int
):
    now = [0.0]

    def work(count: int) -> None:
        now[0] += fixed_s + each_s * count

    assert best_batch_size(work, 32, 0.5, lambda: now[0]) == expected


def test_a_batch_beyond_which_work_gets_slower_is_found():
    now = [0.0]

    def work(count: int) -> None:  # as where a larger batch no longer fits a cache
        now[0] += 0.01 + 0.005 * count + max(0, count - 8) * 0.01

    assert best_batch_size(work, 32, 0.5, lambda: now[0]) == 8


@given(st.sampled_from([1, 2, 4, 8, 16, 32]), st.integers(0, 2), st.floats(1, 20))
def test_one_slow_run_of_a_size_does_not_matter(slow: int, run: int, times: float):
    now, runs = [0.0], Counter[int]()

    def work(count: int) -> None:
        runs[count] += 1
        is_slow = count == slow and runs[count] == 2 + run  # the first run is not timed
        now[0] += (0.01 + 0.001 * count) * (times if is_slow else 1)

    assert best_batch_size(work, 32, 0.5, lambda: now[0]) == 32


@given(most=st.integers(1, 64), fits=st.integers(1, 64))
def test_recordings_get_the_largest_batch_that_fits(most: int, fits: int):
    tried: list[int] = []

    def work(count: int) -> None:
        tried.append(count)
        if count > fits:
            raise MemoryError

    found = most_that_fits(work, most)
    assert found <= fits
    assert found == most or 2 * found + 1 >= tried[-2] > fits
