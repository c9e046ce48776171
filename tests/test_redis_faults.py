"""Redis killed, hung, read-only, full: the pipeline never waits, no alert is lost or doubled."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import redis
from valkey_server import free_port, valkey
from waiting import until

from pipeline.alerts import EmbeddedRedis, Publisher, RedisSink, encode_alert
from pipeline.config import RedisConfig
from pipeline.messages import Alert, AlertState, Caption, FrameStamp
from pipeline.rules import RuleEngine, load_rules
from pipeline.store import Store

pytestmark = pytest.mark.fault

_AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
_BACK_WITHIN_S = 5.0
_NEVER_BLOCKS_S = 0.5
"""Far below any Redis time-out: recording must not wait for Redis."""


@dataclass
class Line:
    """A store and a publisher that goes on while a test does things to the server."""

    store: Store
    publisher: Publisher
    client: redis.Redis
    recorded: int = 0

    def record(self, count: int) -> None:
        """Record so many events as the rule stage does; fail if that waits for Redis."""
        for _ in range(count):
            self.recorded += 1
            stamp = FrameStamp("door", self.recorded, _AT, 0, 2.0)
            alert = Alert(
                f"a{self.recorded}", 1, AlertState.STARTED, "dogs", "high", (), stamp, _AT, _AT,
                _AT, 1, "a dog", 0.5, (),
            )  # fmt: skip
            begun = time.monotonic()
            self.store.record([(encode_alert(alert), bytes(10_000))])
            self.publisher.wake()
            assert time.monotonic() - begun < _NEVER_BLOCKS_S

    def until_failing(self) -> None:
        """Wait until the publisher has met the fault."""
        before = self.publisher.failures
        until(lambda: self.publisher.failures > before)

    def settled(self) -> None:
        """All that was recorded is in the stream once, within 5 s of the server's return."""
        until(lambda: self.store.depth() == 0, _BACK_WITHIN_S)
        assert self.ids() == [f"a{number + 1}" for number in range(self.recorded)]

    def ids(self) -> list[str]:
        """Alert ids in the stream, in its order."""
        entries: Any = self.client.xrange("watchword:alerts")
        return [json.loads(fields[b"event"])["data"]["alert_id"] for _, fields in entries]


def _line(store: Store, url: str) -> Line:
    publisher = Publisher(store, RedisSink(RedisConfig(timeout_s=1.0), url))
    publisher.start()
    return Line(store, publisher, redis.Redis.from_url(url, socket_timeout=2.0))


@pytest.fixture
def line(server: EmbeddedRedis, store: Store) -> Iterator[Line]:
    """A line to a server of its own."""
    made = _line(store, server.url)
    yield made
    made.publisher.stop(0.5)


def test_hung_server_delays_alerts_and_nothing_else(server: EmbeddedRedis, line: Line) -> None:
    line.record(3)
    line.settled()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        line.record(20)
        line.until_failing()
        line.record(20)
        assert line.store.depth() == 40
    finally:
        os.kill(pid, signal.SIGCONT)
    line.settled()


def test_hang_that_hides_an_answer_doubles_nothing(server: EmbeddedRedis, line: Line) -> None:
    """The server stops and goes on around calls whose answer then comes too late."""
    pid = server.pid
    assert pid is not None
    for _ in range(3):
        line.record(5)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.3)  # longer than the client's time-out
        os.kill(pid, signal.SIGCONT)
    line.settled()


def test_killed_server_that_comes_back_with_its_file(server: EmbeddedRedis, line: Line) -> None:
    line.record(3)
    line.settled()
    assert server._process is not None
    time.sleep(1.1)  # append-only everysec: what was answered in the last second may go
    server._process.kill()
    server._process.wait()
    line.record(20)
    line.until_failing()
    assert server.revive()
    line.settled()


def test_full_server_takes_them_when_it_has_room(line: Line) -> None:
    line.record(3)
    line.settled()
    line.client.config_set("maxmemory", "1mb")
    with pytest.raises(redis.RedisError, match="maxmemory"):
        while True:
            line.client.rpush("ballast", bytes(100_000))
    line.record(20)
    line.until_failing()
    assert "OOM" in str(line.publisher.last_error) or "maxmemory" in str(line.publisher.last_error)
    line.client.config_set("maxmemory", "0")
    line.settled()


def test_server_that_cannot_save_refuses_and_takes_them_later(tmp_path: Path, store: Store) -> None:
    """MISCONF: a background save fails, and Redis stops taking writes."""
    home = tmp_path / "home"
    home.mkdir()
    with valkey(home, "--appendonly", "no", "--save", "3600 1") as port:
        line = _line(store, f"redis://127.0.0.1:{port}/0")
        line.record(3)
        line.settled()
        shutil.rmtree(home)
        line.client.bgsave()
        until(lambda: line.client.info("persistence")["rdb_last_bgsave_status"] == "err")
        line.record(20)
        line.until_failing()
        assert "MISCONF" in str(line.publisher.last_error)
        line.client.config_set("stop-writes-on-bgsave-error", "no")
        line.settled()
        line.publisher.stop()


def test_read_only_server_refuses_and_takes_them_later(line: Line) -> None:
    line.record(3)
    line.settled()
    line.client.replicaof("127.0.0.1", free_port())
    line.record(20)
    line.until_failing()
    assert "read only replica" in str(line.publisher.last_error).lower()
    line.client.replicaof("NO", "ONE")
    line.settled()


def test_server_that_restarts_empty_gets_what_comes(tmp_path: Path, store: Store) -> None:
    """Nobody can give back what Redis lost; what is recorded from then on arrives."""
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    with valkey(tmp_path, "--save", "", port=port):
        line = _line(store, url)
        line.record(2)
        line.settled()
    line.record(2)
    line.until_failing()
    with valkey(tmp_path, "--save", "", port=port):
        until(lambda: store.depth() == 0, _BACK_WITHIN_S)
        assert line.ids() == ["a3", "a4"]
        line.publisher.stop()


def _live(engine: RuleEngine, wall: Callable[[float], datetime], seconds: int) -> list[Alert]:
    alerts: list[Alert] = []
    for second in range(seconds):
        text = "a car is on fire" if second % 200 < 40 else "an empty street"
        stamp = FrameStamp("door", second, wall(second), int(second * 1e9), None)
        alerts += engine.process(Caption(stamp, text, -1.0))
    return alerts


@pytest.mark.parametrize("step", [timedelta(hours=1), timedelta(hours=-1)])
def test_step_of_the_clock_changes_no_order_and_no_wait(
    step: timedelta, tmp_path: Path, server: EmbeddedRedis
) -> None:
    """The wall clock steps in the middle of an alert; a run without the step is the measure."""
    rules = load_rules(Path(__file__).parent.parent / "configs" / "rules.yaml")

    def steady(second: float) -> datetime:
        return _AT + timedelta(seconds=second)

    def stepping(second: float) -> datetime:
        return steady(second) + (step if second >= 220 else timedelta(0))

    expected = _live(RuleEngine(rules), steady, 700)
    found = _live(RuleEngine(rules), stepping, 700)
    shape = [(a.rule, a.state, a.revision, a.count, a.stamp.sequence) for a in expected]
    assert [(a.rule, a.state, a.revision, a.count, a.stamp.sequence) for a in found] == shape
    assert len(shape) > 8
    store = Store(tmp_path / "store.db", clock=lambda: stepping(300))
    line = _line(store, server.url)
    for alert in found:
        store.record([(encode_alert(alert), None)])
    until(lambda: store.depth() == 0)
    entries: Any = line.client.xrange("watchword:alerts")
    events = [json.loads(fields[b"event"]) for _, fields in entries]
    assert [event["data"]["seq"] for event in events] == list(range(1, len(found) + 1))
    assert [event["id"].split(":")[0] for event in events] == [alert.id for alert in found]
    assert len({event["id"] for event in events}) == len(found)
    line.publisher.stop()
    store.close()
