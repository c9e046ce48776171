"""What goes wrong around Redis costs no alert: each fault is made on a real server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path

import pytest
import redis
from planted import OTHER_PASSWORD, PASSWORD
from waiting import until

from pipeline.alerts import EmbeddedRedis, Publisher, RedisSink, encode_alert, subscribe
from pipeline.alerts.redis_client import connect
from pipeline.config import RedisConfig
from pipeline.messages import Alert, AlertState, FrameStamp
from pipeline.store import Store

_AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc)


def _alert(name: str) -> Alert:
    return Alert(
        name, 1, AlertState.STARTED, "dogs", "high", ("x",), FrameStamp("door", 1, _AT, 0, 2.0),
        _AT, _AT, _AT, 1, "a dog", 0.5, (),
    )  # fmt: skip


def _record(store: Store, *names: str) -> None:
    store.record([(encode_alert(_alert(name)), None) for name in names])


def _publish_all(store: Store, url: str) -> None:
    publisher = Publisher(store, RedisSink(RedisConfig(), url))
    publisher.start()
    assert publisher.stop() == 0


def test_refused_write_in_the_middle_loses_nothing(server: EmbeddedRedis, store: Store) -> None:
    client = redis.Redis.from_url(server.url)
    client.set("watchword:alerts", "somebody else's")
    _record(store, "a1")
    publisher = Publisher(store, RedisSink(RedisConfig(), server.url))
    publisher.start()
    until(lambda: publisher.failures >= 3 or store.depth() == 0)
    client.delete("watchword:alerts")
    assert publisher.stop() == 0
    assert client.xlen("watchword:alerts") == 1


def test_user_who_may_not_use_channels_gets_one_entry(server: EmbeddedRedis, store: Store) -> None:
    client = redis.Redis.from_url(server.url)
    client.acl_setuser(
        "writer", enabled=True, passwords=["+hunter2"], keys=["*"], commands=["+@all"], reset=True
    )
    _record(store, "a1")
    _publish_all(store, server.url.replace("//", "//writer:hunter2@"))
    assert client.xlen("watchword:alerts") == 1


def test_callback_that_raises_does_not_end_the_thread(server: EmbeddedRedis, store: Store) -> None:
    def angry(event_id: str) -> None:
        raise RuntimeError(event_id)

    publisher = Publisher(store, RedisSink(RedisConfig(), server.url), angry)
    publisher.start()
    _record(store, "a1")
    publisher.wake()
    until(lambda: store.depth() == 0)
    _record(store, "a2")
    publisher.wake()
    until(lambda: store.depth() == 0)
    assert publisher.stop() == 0


@pytest.mark.fault
def test_group_survives_a_restart_between_event_and_acknowledgement(
    server: EmbeddedRedis, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    _record(store, "a1", "a2")
    _publish_all(store, server.url)
    events = subscribe(server.url, since="1h", group="g", timeout_s=1.0)
    assert next(events).data["alert_id"] == "a1"
    assert server._process is not None
    server._process.kill()
    server._process.wait()

    got: list[str] = []

    follower = threading.Thread(target=lambda: got.append(next(events).data["alert_id"]))
    follower.start()
    until(lambda: "acknowledgement" in caplog.text)
    # Here and not in a thread: the server ends with the thread that started it.
    assert server.revive()
    follower.join(8)
    assert got == ["a2"]
    events.close()  # type: ignore[attr-defined]
    again = subscribe(server.url, group="g")  # a1 was acknowledged late, a2 never
    assert next(again).data["alert_id"] == "a2"


def test_group_is_made_anew_when_the_server_lost_it(server: EmbeddedRedis, store: Store) -> None:
    _record(store, "a1")
    _publish_all(store, server.url)
    stop = threading.Event()
    events = subscribe(server.url, since="1h", group="g", keep_going=lambda: not stop.is_set())
    assert next(events).data["alert_id"] == "a1"
    redis.Redis.from_url(server.url).flushall()
    _record(store, "a2")
    _publish_all(store, server.url)
    timer = threading.Timer(8, stop.set)
    timer.start()
    try:
        assert next(events).data["alert_id"] == "a2"
    finally:
        timer.cancel()


@pytest.mark.parametrize("mark", ["/", "?", "#"])
def test_password_that_breaks_the_url_is_not_shown(mark: str) -> None:
    with pytest.raises(ValueError, match="not usable") as caught:
        connect(f"redis://user:{PASSWORD}{mark}{OTHER_PASSWORD}@host:1/0", 1.0)
    assert PASSWORD not in str(caught.value)
    assert OTHER_PASSWORD not in str(caught.value)


def test_same_recording_into_a_new_server_is_published_again(tmp_path: Path) -> None:
    for _ in range(2):
        store = Store(tmp_path / "store.db")
        with EmbeddedRedis() as server:
            _record(store, "a1")
            _publish_all(store, server.url)
            assert redis.Redis.from_url(server.url).xlen("watchword:alerts") == 1
        store.close()


def test_trimming_that_made_a_gap_is_said(
    server: EmbeddedRedis, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    _record(store, "a1", "a2", "a3")
    _publish_all(store, server.url)
    events = subscribe(server.url, since="1h")
    assert next(events).data["alert_id"] == "a1"
    assert "missing" not in caplog.text
    client = redis.Redis.from_url(server.url)
    client.xtrim("watchword:alerts", maxlen=1, approximate=False)
    late = subscribe(server.url, since="1h")
    assert next(late).data["alert_id"] == "a3"
    assert "may be missing" in caplog.text


def test_group_that_lags_behind_trimming_is_told(
    server: EmbeddedRedis, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    _record(store, "a1")
    _publish_all(store, server.url)
    events = subscribe(server.url, since="1h", group="g")
    assert next(events).data["alert_id"] == "a1"
    assert "missing" not in caplog.text
    _record(store, "a2", "a3")
    _publish_all(store, server.url)
    redis.Redis.from_url(server.url).xtrim("watchword:alerts", maxlen=1, approximate=False)
    assert next(events).data["alert_id"] == "a3"
    assert "may be missing" in caplog.text


@pytest.mark.fault
def test_killed_at_random_points_publishes_what_an_unbroken_run_does() -> None:
    command = [sys.executable, "-m", "benchmarks.outbox_faults", "--faults", "25"]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    count = json.loads(done.stdout)
    assert count["at_work"] >= 5  # else the kills fell beside the work and show nothing
    assert count["found"] == count["expected"] > 0
