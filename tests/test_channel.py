from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.channel import Channel, ChannelClosed, Overflow

LANES = st.sampled_from(["a", "b", "c"])


@given(puts=st.lists(st.tuples(LANES, st.integers()), max_size=60), capacity=st.integers(1, 5))
def test_drop_oldest_keeps_the_newest_of_each_lane_and_reports_the_rest(
    puts: list[tuple[str, int]], capacity: int
):
    dropped: list[int] = []
    channel: Channel[int] = Channel(
        "t", capacity, Overflow.DROP_OLDEST, lambda item, reason: dropped.append(item)
    )
    for lane, item in puts:
        assert channel.put(item, lane)
    taken = channel.take(max_items=1000, max_wait_s=0)
    newest = [
        item for lane in "abc" for item in [i for where, i in puts if where == lane][-capacity:]
    ]
    assert sorted(taken) == sorted(newest)
    assert sorted(taken + dropped) == sorted(item for _, item in puts)


@given(puts=st.lists(st.tuples(LANES, st.integers()), max_size=60), capacity=st.integers(1, 5))
def test_drop_newest_keeps_the_first_and_says_so(puts: list[tuple[str, int]], capacity: int):
    dropped: list[int] = []
    channel: Channel[int] = Channel(
        "t", capacity, Overflow.DROP_NEWEST, lambda item, reason: dropped.append(item)
    )
    kept = [item for lane, item in puts if channel.put(item, lane)]
    assert sorted(channel.take(max_items=1000, max_wait_s=0)) == sorted(kept)
    assert sorted(kept + dropped) == sorted(item for _, item in puts)


@given(sizes=st.lists(st.integers(0, 8), min_size=2, max_size=5), max_items=st.integers(1, 10))
def test_taking_is_fair_and_in_order(sizes: list[int], max_items: int):
    channel: Channel[tuple[int, int]] = Channel("t", 10)
    for lane, size in enumerate(sizes):
        for item in range(size):
            channel.put((lane, item), lane)
    taken: list[tuple[int, int]] = []
    while batch := channel.take(max_items=max_items, max_wait_s=0):
        assert len(batch) <= max_items
        taken += batch
        counts = [sum(1 for lane, _ in taken if lane == i) for i in range(len(sizes))]
        open_counts = [c for c, size in zip(counts, sizes, strict=True) if c < size]
        # A lane that still waits is never more than one turn behind any other.
        assert not open_counts or max(counts) - min(open_counts) <= max(1, max_items)
    for lane, size in enumerate(sizes):
        assert [item for where, item in taken if where == lane] == list(range(size))


def test_per_lane_limits_a_busy_camera():
    channel: Channel[str] = Channel("t", 10)
    for _ in range(5):
        channel.put("busy", "busy")
    channel.put("quiet", "quiet")
    assert sorted(channel.take(max_items=10, max_wait_s=0, per_lane=1)) == ["busy", "quiet"]
    assert channel.take(max_items=10, max_wait_s=0, per_lane=1) == ["busy"]


def test_wait_blocks_until_there_is_room_and_close_frees_the_waiting():
    channel: Channel[int] = Channel("t", 1)
    channel.put(1)
    outcome: list[str] = []

    def producer() -> None:
        channel.put(2)
        outcome.append("put")
        try:
            channel.put(3)
        except ChannelClosed:
            outcome.append("closed")

    thread = threading.Thread(target=producer)
    thread.start()
    assert channel.take(max_wait_s=5) == [1]
    while outcome != ["put"]:
        time.sleep(0.001)
    channel.close()
    thread.join(5)
    assert outcome == ["put", "closed"]
    assert channel.take(max_wait_s=5) == [2]
    assert channel.drained
    assert channel.take() == []
    with pytest.raises(ChannelClosed):
        channel.put(4)


def test_linger_gathers_what_comes_late():
    channel: Channel[int] = Channel("t", 10)
    channel.put(0)
    thread = threading.Timer(0.05, channel.put, args=(1,))
    thread.start()
    assert channel.take(max_items=2, linger_s=5) == [0, 1]
    thread.join()


def test_what_has_waited_long_enough_waits_for_nothing_more():
    channel: Channel[int] = Channel("t", 10)
    channel.put(0)
    channel._waiting_since_s -= 3600
    taken: list[int] = []
    thread = threading.Thread(target=lambda: taken.extend(channel.take(10, linger_s=600)))
    thread.daemon = True
    thread.start()
    thread.join(20)
    assert taken == [0]


def test_an_idle_take_returns_nothing_and_is_not_drained():
    channel: Channel[int] = Channel("t", 1)
    assert channel.take(max_wait_s=0.001) == []
    assert not channel.drained


@given(
    producers=st.integers(1, 3),
    items=st.integers(0, 30),
    capacity=st.integers(1, 4),
    policy=st.sampled_from(list(Overflow)),
)
def test_nothing_is_lost_or_doubled_between_threads(
    producers: int, items: int, capacity: int, policy: Overflow
):
    dropped: list[tuple[int, int]] = []
    channel: Channel[tuple[int, int]] = Channel(
        "t", capacity, policy, lambda item, reason: dropped.append(item)
    )

    def produce(lane: int) -> None:
        for item in range(items):
            channel.put((lane, item), lane)

    threads = [threading.Thread(target=produce, args=(lane,)) for lane in range(producers)]
    for thread in threads:
        thread.start()
    closer = threading.Thread(target=lambda: [t.join() for t in threads] and channel.close())
    closer.start()
    taken: list[tuple[int, int]] = []
    while not channel.drained:
        taken += channel.take(max_items=3, max_wait_s=0.05)
    closer.join()
    everything = sorted((lane, item) for lane in range(producers) for item in range(items))
    assert sorted(taken + dropped) == everything
    if policy is Overflow.WAIT:
        assert not dropped
