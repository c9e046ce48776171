"""Subscribers: from within an event loop, after an absence, in place of a dead consumer."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from itertools import islice
from typing import cast

import pytest
import redis
from waiting import until

from pipeline.alerts import (
    EmbeddedRedis,
    Event,
    Publisher,
    RedisSink,
    encode_alert,
    subscribe,
    subscribe_async,
)
from pipeline.alerts.subscriber import _entries, parse_since
from pipeline.config import RedisConfig
from pipeline.messages import Alert, AlertState, FrameStamp
from pipeline.store import Store

_AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc)


def _publish(store: Store, url: str, *names: str) -> None:
    for name in names:
        stamp = FrameStamp("door", 1, _AT, 0, 2.0)
        alert = Alert(
            name, 1, AlertState.STARTED, "dogs", "high", (), stamp, _AT, _AT, _AT, 1, "a dog",
            0.5, (),
        )  # fmt: skip
        store.record([(encode_alert(alert), None)])
    publisher = Publisher(store, RedisSink(RedisConfig(), url))
    publisher.start()
    assert publisher.stop() == 0


def _threads() -> int:
    return sum("watchword-subscriber" in thread.name for thread in threading.enumerate())


async def _first(events: AsyncIterator[Event], count: int) -> list[str]:
    found = []
    async for event in events:
        found.append(event.data["alert_id"])
        if len(found) == count:
            break
    await events.aclose()  # type: ignore[attr-defined]
    return found


def test_async_gives_the_same_and_hangs_up(server: EmbeddedRedis, store: Store) -> None:
    _publish(store, server.url, "a1", "a2", "a3")
    got = asyncio.run(_first(subscribe_async(server.url, since="1h"), 3))
    assert got == ["a1", "a2", "a3"]
    until(lambda: _threads() == 0)
    clients = cast(list[object], redis.Redis.from_url(server.url).client_list())
    assert len(clients) == 1


def test_async_leaves_the_loop_free_and_can_be_cancelled(server: EmbeddedRedis) -> None:
    async def wait_for_nothing() -> int:
        waiting = asyncio.create_task(_first(subscribe_async(server.url), 1))
        turns = 0
        for _ in range(20):
            await asyncio.sleep(0.01)
            turns += 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return turns

    assert asyncio.run(wait_for_nothing()) == 20
    until(lambda: _threads() == 0)


def test_async_group_gets_what_was_not_handled_again(server: EmbeddedRedis, store: Store) -> None:
    _publish(store, server.url, "a1", "a2")
    assert asyncio.run(_first(subscribe_async(server.url, since="1h", group="g"), 1)) == ["a1"]
    until(lambda: _threads() == 0)
    assert asyncio.run(_first(subscribe_async(server.url, group="g"), 2)) == ["a1", "a2"]


@pytest.mark.fault
def test_what_a_dead_consumer_left_is_claimed(server: EmbeddedRedis, store: Store) -> None:
    _publish(store, server.url, "a1", "a2")
    dead = subscribe(server.url, since="1h", group="g", consumer="dead")
    assert next(dead).data["alert_id"] == "a1"
    dead.close()  # type: ignore[attr-defined]
    heir = subscribe(server.url, group="g", consumer="heir", claim_idle_s=0.2)
    assert sorted(event.data["alert_id"] for event in islice(heir, 2)) == ["a1", "a2"]


def test_subscriber_that_was_away_reads_what_it_missed(server: EmbeddedRedis, store: Store) -> None:
    _publish(store, server.url, "a1")
    here = subscribe(server.url, since="1h")
    last = next(here)
    _publish(store, server.url, "a2", "a3")
    back = subscribe(server.url, since=last.stream_id)
    assert [event.data["alert_id"] for event in islice(back, 2)] == ["a2", "a3"]


def test_what_is_no_event_of_ours_is_passed_over(
    server: EmbeddedRedis, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    client = redis.Redis.from_url(server.url)
    strange = {"id": "1", "type": "x", "time": "y"}
    for text in (
        "{",
        "[]",
        "{}",
        json.dumps(strange | {"data": []}),
        json.dumps(strange | {"data": {}}),
    ):
        client.xadd("watchword:alerts", {"event": text})
    client.xadd("watchword:alerts", {"other": "field"})
    _publish(store, server.url, "a1")
    for group in (None, "desk"):
        event = next(subscribe(server.url, since="1d", group=group))
        assert event.data["alert_id"] == "a1"
    assert caplog.text.count("no event of ours") == 12


def test_since_a_time_starts_with_its_millisecond(server: EmbeddedRedis) -> None:
    client = redis.Redis.from_url(server.url)
    for stream_id in ("9999-0", "9999-7", "10000-0", "10000-1"):
        client.xadd("s", {"n": stream_id}, id=stream_id)
    start = parse_since("1970-01-01T00:00:10Z")
    entries = _entries(client.xread({"s": start}))
    assert [stream_id for stream_id, _ in entries] == [b"10000-0", b"10000-1"]
