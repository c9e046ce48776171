"""Workers, supervisor, window schedule and batcher, without processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batcher import Batcher, LaneRules, WindowSchedule
from pipeline.channel import Channel
from pipeline.ledger import Ledger
from pipeline.messages import FrameRef, FrameStamp
from pipeline.supervisor import StageFailed, Supervisor
from pipeline.worker import Inlet, Worker

START = datetime(2026, 11, 24, tzinfo=timezone.utc)


class Doubler:
    """Doubles numbers; fails at ``fails_at``."""

    name = "doubler"

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.closed = 0

    def open(self) -> None:
        pass

    def process(self, items: Sequence[int]) -> Iterable[int]:
        for item in items:
            if item == self.fails_at:
                raise RuntimeError("number refused")
            yield 2 * item

    def flush(self) -> Iterable[int]:
        yield -1

    def close(self) -> None:
        self.closed += 1


class Numbers:
    """A source that puts numbers and ends."""

    def __init__(self, inbox: Channel[int], count: int) -> None:
        self.inbox, self.count = inbox, count
        self.error: Exception | None = None
        self.done = False

    def start(self) -> None:
        for number in range(self.count):
            self.inbox.put(number)
        self.done = True

    def stop(self) -> None:
        pass

    def all_finished(self) -> bool:
        return self.done


def chain(fails_at: int | None, count: int) -> tuple[Supervisor, Doubler, Channel[int]]:
    inbox: Channel[int] = Channel("in", 100)
    outbox: Channel[int] = Channel("out", 100)
    stage = Doubler(fails_at)
    worker: Worker[int, int] = Worker(stage, Inlet(inbox), outbox, lambda _: None)
    return Supervisor(Numbers(inbox, count), [worker]), stage, outbox


def test_a_run_drains_flushes_and_closes():
    supervisor, stage, outbox = chain(None, 20)
    supervisor.start()
    assert supervisor.wait()
    supervisor.drain()
    assert outbox.take(max_items=100) == [2 * n for n in range(20)] + [-1]
    assert outbox.drained
    assert stage.closed == 1


def test_a_failing_stage_ends_the_run_with_its_error_and_frees_its_neighbours():
    supervisor, stage, outbox = chain(3, 1)
    supervisor.start()
    channel = supervisor._workers[0].inlet.channel
    channel.put(3)
    supervisor._workers[0].join(5)
    with pytest.raises(StageFailed, match="doubler: number refused"):
        supervisor.wait()
    supervisor.drain()
    assert channel.closed
    assert outbox.closed
    assert stage.closed == 1


def test_a_stop_is_told_from_an_end():
    supervisor, _, _ = chain(None, 0)
    supervisor.start()
    supervisor.request_stop()
    assert not supervisor.wait()
    supervisor.drain()


def stamp(camera: str, sequence: int, time_s: float) -> FrameStamp:
    moment = START + timedelta(seconds=time_s)
    return FrameStamp(camera, sequence, moment, int(time_s * 1e9), None)


@given(
    rate=st.sampled_from([0.5, 1.0, 2.0]),
    gaps=st.lists(st.floats(0.01, 3.0), min_size=1, max_size=60),
)
def test_windows_are_due_at_most_once_a_period_and_never_too_late(rate: float, gaps: list[float]):
    schedule, time_s, due = WindowSchedule(rate), 0.0, []
    for sequence, gap in enumerate(gaps):
        if schedule.due(stamp("c", sequence, time_s)):
            due.append(time_s)
        time_s += gap
    assert due[0] == 0.0
    ticks = [int((at + 5e-4) * rate) for at in due]
    assert len(set(ticks)) == len(ticks)
    assert ticks == sorted({int((at + 5e-4) * rate) for at in _times(gaps)})


def _times(gaps: list[float]) -> list[float]:
    times, time_s = [], 0.0
    for gap in gaps:
        times.append(time_s)
        time_s += gap
    return times


@given(ages=st.lists(st.floats(0.0, 10.0), min_size=1, max_size=20))
def test_stale_live_frames_are_dropped_released_and_counted(ages: list[float]):
    ledger, released = Ledger(), []
    now_ns = int(100e9)
    batcher = Batcher({"c": LaneRules(1.0, 2.0)}, released.append, ledger, lambda: now_ns)
    refs = [FrameRef(stamp("c", i, 100.0 - age), i, 1, 1) for i, age in enumerate(ages)]
    kept = [ref for batch in batcher.process(refs) for ref in batch.refs]
    assert len(kept) + len(released) == len(refs)
    assert ledger.books("c").dropped.get("stale", 0) == len(released)
    assert all(100.0 - ref.stamp.time_s <= 2.0 + 1e-6 for ref in kept)
    assert [ref.stamp.sequence for ref in kept] == sorted(ref.stamp.sequence for ref in kept)
