"""Workers, supervisor, window schedule and batcher, without processes."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.accounting import Accounting
from pipeline.batcher import Batch, Batcher, LaneRules, WindowSchedule
from pipeline.captioner import CaptionedFrame, CaptionerError, CaptionerStage
from pipeline.captioner_messages import Answer, Failure, Ready, Request
from pipeline.channel import Channel, ChannelClosed, Overflow
from pipeline.frame_clock import TokenBucket
from pipeline.ledger import Ledger
from pipeline.messages import Caption, FrameRef, FrameStamp, StageHealth
from pipeline.restarts import RestartBudget
from pipeline.slots import SlotLayout
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


def _granted(rate: float, times: list[float]) -> list[float]:
    """The times that a live camera's schedule takes; the grabber's and the batcher's are alike."""
    windows, bucket = WindowSchedule(rate, live=True), TokenBucket(rate)
    due = [at for i, at in enumerate(times) if windows.due(stamp("c", i, 100.0 + at))]
    assert due == [at for at in times if bucket.take(at)]
    return due


RATES = st.sampled_from([0.5, 1.0, 2.5])


@given(rate=RATES, gaps=st.lists(st.floats(0.0, 10.0), min_size=1, max_size=60))
def test_a_live_camera_is_never_captioned_more_often_than_asked(rate: float, gaps: list[float]):
    due = _granted(rate, _times(gaps))
    assert due[0] == 0.0
    for number, at in enumerate(due, 1):
        assert number <= 1 + rate * at + 1e-3
    for first in range(len(due)):  # nor, but for the one that was saved, over any other stretch
        for last in range(first, len(due)):
            assert last - first + 1 <= 2 + rate * (due[last] - due[first]) + 1e-3


@given(rate=RATES, shares=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60))
def test_a_live_camera_with_no_gap_over_a_period_gets_every_caption_asked_for(
    rate: float, shares: list[float]
) -> None:
    times = _times([share / rate for share in shares])
    assert len(_granted(rate, times)) >= rate * times[-1] - 1e-3


@given(rate=RATES, wavers=st.lists(st.floats(0.0, 0.999), min_size=1, max_size=60))
def test_a_live_camera_with_one_frame_a_period_loses_one_at_most_to_bunched_arrival(
    rate: float, wavers: list[float]
) -> None:
    times = [(number + waver) / rate for number, waver in enumerate(wavers)]
    assert len(_granted(rate, times)) >= len(times) - 1


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


def test_a_camera_that_is_removed_while_its_frames_are_batched_ends_nothing():
    lanes = {"c": LaneRules(1.0, 2.0), "d": LaneRules(1.0, 2.0)}
    ledger, frames = Ledger(), Frames()
    batcher = Batcher(lanes, frames.release, ledger, lambda: 0)
    batcher.on_frame = (lambda ref: lanes.pop("c", None) and None,)  # as a reload in another thread
    refs = [FrameRef(stamp(camera, 0, 0.0), slot, 1, 1) for slot, camera in enumerate("cd")]
    (batch,) = batcher.process(refs)
    assert dict(zip((ref.stamp.camera for ref in batch.refs), batch.due, strict=True)) == {
        "c": False, "d": True,
    }  # fmt: skip
    captioner = CaptionerStage(Child([]), frames, ledger, RestartBudget(1, 60.0))  # type: ignore[arg-type]
    list(captioner.process([batch]))
    assert ledger.books("c").encoded == ledger.books("d").encoded == 1
    assert ledger.books("c").windows == 0
    assert refs[0] in frames.released
    assert [*batcher.process(refs[:1])] == []
    assert ledger.books("c").dropped == {"removed": 1}


class Stuck(Doubler):
    """Hangs in its first item until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def process(self, items: Sequence[int]) -> Iterable[int]:
        self.let_go.wait(30)
        yield from super().process(items)


def test_a_stalled_stage_ends_the_run_with_its_name_and_leaves_what_waits_to_be_booked():
    inbox: Channel[int] = Channel("in", 100)
    stage, abandoned = Stuck(), []
    worker: Worker[int, int] = Worker(stage, Inlet(inbox), None, lambda _: None)
    source = Numbers(inbox, 5)
    supervisor = Supervisor(source, [worker], abandoned.append, 0.3, 0.3)
    supervisor.start()
    source.done = False
    with pytest.raises(StageFailed, match=r"doubler: no progress for .* with 5 waiting"):
        supervisor.wait(poll_s=0.02)
    with pytest.raises(StageFailed, match="doubler did not end"):
        supervisor.drain()
    assert abandoned == [1, 2, 3, 4]
    stage.let_go.set()
    assert worker.join(5)


def test_work_after_a_long_silence_is_no_stall():
    inbox: Channel[int] = Channel("in", 100)
    worker: Worker[int, int] = Worker(Doubler(), Inlet(inbox), Channel("out", 9), lambda _: None)
    supervisor = Supervisor(Numbers(inbox, 0), [worker], stall_timeout_s=0.1)
    worker.health = lambda: StageHealth("doubler", True, 0, next(queued), 0)  # type: ignore[method-assign]
    queued = iter([0, 1, 1])  # idle since the start of the clock, then one item at two looks
    assert supervisor._stalled() is None
    assert supervisor._stalled() is None
    time.sleep(0.15)
    assert supervisor._stalled() is not None


def test_a_second_stop_cuts_a_drain_short():
    inbox: Channel[int] = Channel("in", 100)
    stage, abandoned = Stuck(), []
    worker: Worker[int, int] = Worker(stage, Inlet(inbox), Channel("out", 9), lambda _: None)
    supervisor = Supervisor(Numbers(inbox, 3), [worker], abandoned.append)
    supervisor.start()
    supervisor.request_stop()
    assert not supervisor.wait()
    supervisor.request_stop()
    began_s = time.monotonic()
    with pytest.raises(StageFailed, match="did not end"):
        supervisor.drain()
    assert time.monotonic() - began_s < 20  # of the 60 it may take
    stage.let_go.set()
    assert worker.join(5)


class Sums:
    """Gives how many items it was given at once."""

    name = "sums"

    def open(self) -> None:
        pass

    def process(self, items: Sequence[int]) -> Iterable[int]:
        return (len(items),)

    def flush(self) -> Iterable[int]:
        return ()

    close = open


def test_what_comes_while_the_next_stage_is_busy_is_taken_together():
    inbox: Channel[int] = Channel("in", 100)
    counts: Channel[int] = Channel("counts", 1)
    worker: Worker[int, int] = Worker(
        Sums(), Inlet(inbox, 100), counts, lambda _: None, when_wanted=True
    )
    worker.start()
    for number in range(7):  # nobody takes from ``counts`` yet
        inbox.put(number)
    assert counts.take(max_wait_s=10) == [7]
    inbox.put(8)
    assert counts.take(max_wait_s=10) == [1]
    inbox.close()
    counts.close()  # as a next stage that failed would
    assert worker.join(10)
    assert worker.error is None


class Frames:
    """Stands for the capture: counts the slots that came back."""

    def __init__(self) -> None:
        self.released: list[FrameRef] = []

    def release(self, ref: FrameRef) -> None:
        self.released.append(ref)

    def layout_of(self, ref: FrameRef) -> SlotLayout:
        return SlotLayout(ref.stamp.camera, 4, 8, 64)

    def holds(self, camera: str) -> bool:
        return True


class Child:
    """Stands for the captioner process: answers, or fails as told, batch by batch."""

    silences = 0

    def __init__(self, fates: Sequence[str], starts: Sequence[CaptionerError | None] = ()) -> None:
        self._fates, self._starts = iter(fates), iter(starts)
        self.started = 0

    def ask(self, request: Request) -> Answer | Failure:
        fate = next(self._fates, "answer")
        if fate == "raise":
            raise OSError("the pipe is of no use")
        if fate == "die":
            return Failure("captioner_died", "the captioner process has died")
        due = [ref for ref, is_due in zip(request.refs, request.due, strict=True) if is_due]
        return Answer(tuple(Caption(ref.stamp, "a man", -1.0) for ref in due), len(due))

    def start(self) -> Ready:
        self.started += 1
        if (failure := next(self._starts, None)) is not None:
            raise failure
        return Ready(8, "model", "cpu", "eager")

    def kill(self) -> None:
        pass

    stop = kill


DIED = CaptionerError("the captioner ended while loading its model", passing=True)
DAMAGED = CaptionerError("the weights do not fit their checksum")


@pytest.mark.parametrize(
    ("starts", "budget", "tried", "told"),
    [
        ((None,), 5, 1, None),
        ((DIED, DIED, None), 5, 3, None),
        ((DIED,) * 9, 5, 5, "ended while loading"),
        ((DIED, DAMAGED, None), 5, 2, "checksum"),
        ((DAMAGED, None), 5, 1, "checksum"),
        ((DIED, None), 1, 1, "ended while loading"),
    ],
)
def test_a_captioner_that_fails_to_start_again_has_its_whole_budget(
    starts: tuple[CaptionerError | None, ...],
    budget: int,
    tried: int,
    told: str | None,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("pipeline.captioner.time.sleep", lambda seconds: None)
    child, ledger, frames = Child(["die"], starts), Ledger(), Frames()
    stage = CaptionerStage(child, frames, ledger, RestartBudget(budget, 60.0))  # type: ignore[arg-type]
    refs = [FrameRef(stamp("c", number, number), number, 1, 1) for number in range(2)]
    first, second = (Batch((ref,), (False,)) for ref in refs)
    if told is None:
        assert list(stage.process([first, second])) == []
        assert ledger.books("c").encoded == 1
    else:
        with pytest.raises(CaptionerError, match=told):
            list(stage.process([first, second]))
    assert child.started == tried
    assert ledger.books("c").failed == {"captioner_died": 1}
    assert refs[0] in frames.released


class Taker:
    """The last stage: gives slots back, and fails at its ``fails_at``-th caption."""

    name = "taker"

    def __init__(self, frames: Frames, fails_at: int | None) -> None:
        self._frames, self._left = frames, fails_at

    def open(self) -> None:
        pass

    def process(self, items: Sequence[CaptionedFrame]) -> Iterable[None]:
        for item in items:
            self._frames.release(item.ref)
            if self._left is not None:
                self._left -= 1
                if self._left < 0:
                    raise RuntimeError("the disk is on fire")
        return ()

    def flush(self) -> Iterable[None]:
        return ()

    close = open


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    fates=st.lists(st.sampled_from(["answer", "answer", "die", "raise"]), max_size=8),
    fails_at=st.none() | st.integers(0, 8),
    restarts=st.integers(1, 4),
    when_wanted=st.booleans(),
)
def test_every_frame_and_window_is_booked_once_whatever_fails(
    counts: list[int], fates: list[str], fails_at: int | None, restarts: int, when_wanted: bool
):
    ledger, frames = Ledger(), Frames()
    accounting = Accounting(frames, ledger)  # type: ignore[arg-type]
    inbox: Channel[FrameRef] = Channel("frames", 3, Overflow.DROP_OLDEST, accounting.drop)
    batches, captions = Channel("batches", 1), Channel("captions", 2)
    lanes = {f"c{n}": LaneRules(2.0, None) for n in range(len(counts))}
    captioner = CaptionerStage(Child(fates), frames, ledger, RestartBudget(restarts, 60.0))  # type: ignore[arg-type]
    batcher = Batcher(lanes, frames.release, ledger)
    workers = [
        Worker(batcher, Inlet(inbox, 4), batches, lambda _: None, when_wanted=when_wanted),
        Worker(captioner, Inlet(batches), captions, lambda _: None),
        Worker(Taker(frames, fails_at), Inlet(captions), None, lambda _: None),
    ]
    source = Numbers(inbox, 0)
    supervisor = Supervisor(source, workers, accounting.abandon)
    supervisor.start()
    delivered = Counter()
    for sequence in range(max(counts)):
        for camera, count in enumerate(counts):
            if sequence < count:
                ref = FrameRef(stamp(f"c{camera}", sequence, sequence * 0.4), sequence, 1, 1)
                try:
                    inbox.put(ref, ref.stamp.camera)
                except ChannelClosed:
                    continue
                delivered[ref.stamp.camera] += 1
    supervisor.drain()
    for camera in lanes:
        books = ledger.books(camera)
        given_up = sum(books.dropped.values()) + sum(books.failed.values())
        assert books.encoded + given_up == delivered[camera]
        lost = sum(books.windows_dropped.values()) + sum(books.windows_failed.values())
        assert books.captioned + lost == books.windows
    assert len(frames.released) == len(set(frames.released)) == sum(delivered.values())
