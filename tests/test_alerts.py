"""Alerts on their way out, against the real embedded server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from cloudevents.v1.conversion import to_structured
from cloudevents.v1.http import from_json
from waiting import until

from pipeline.alerts import (
    EmbeddedRedis,
    Publisher,
    RedisSink,
    encode_alert,
    encode_camera_event,
    encode_review,
    subscribe,
)
from pipeline.alerts.redis_client import connect
from pipeline.alerts.server import running_servers
from pipeline.alerts.snapshot import encode_snapshot
from pipeline.alerts.subscriber import parse_since
from pipeline.commands.common import redis_of_alerts
from pipeline.config import RedisConfig
from pipeline.messages import (
    Alert,
    AlertState,
    CameraEvent,
    CameraState,
    Evidence,
    FrameStamp,
    Region,
    Review,
    ReviewState,
)
from pipeline.store import Store

_AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
_FIELDS = (
    "alert_id revision camera rule tags severity caption probability keywords evidence region"
    " frame_time media_time_s detected_time first_seen last_seen count snapshot clip model"
    " rules_version frame_sequence alternatives"
)


def _alert(name: str = "a1") -> Alert:
    return Alert(
        name, 1, AlertState.STARTED, "dogs", "high", ("x",), FrameStamp("door", 1, _AT, 0, 2.0),
        _AT, _AT, _AT, 1, "a dog", 0.5, (Evidence("dog", "dog", (2, 5), 0.5),),
        Region(0, 0, 0.5, 0.5),
    )  # fmt: skip


def _publish(store: Store, url: str, *names: str) -> None:
    store.record([(encode_alert(_alert(name)), b"jpeg") for name in names])
    publisher = Publisher(store, RedisSink(RedisConfig(), url))
    publisher.start()
    assert publisher.stop() == 0


def test_alert_has_the_documented_fields_and_is_the_same_again() -> None:
    event = encode_alert(_alert())
    assert event == encode_alert(_alert())
    assert set(event["data"]) == set(_FIELDS.split())
    assert event["id"] == "a1:started:1"
    assert event["data"]["frame_time"].startswith("2026-01-02T03:04:05.000006")


@pytest.mark.parametrize(
    "event",
    [
        encode_alert(_alert()),
        encode_camera_event(CameraEvent("door", CameraState.OFFLINE, "no frames", _AT, None, 2)),
        encode_review(Review("s1", 2, ReviewState.SNOOZED, "gate*", "*", _AT, "ann", "", _AT)),
    ],
    ids=["alert", "camera", "review"],
)
def test_the_cloud_events_sdk_reads_every_event(event: dict[str, Any]) -> None:
    read = from_json(json.dumps(event))
    for name in ("id", "source", "type", "subject", "time", "specversion", "datacontenttype"):
        assert read[name] == event[name]
    assert read.data == event["data"]
    assert json.loads(to_structured(read)[1]) == event


def test_published_to_stream_channel_hash_and_snapshot(server: EmbeddedRedis, store: Store) -> None:
    client = redis.Redis.from_url(server.url)
    listener = client.pubsub(ignore_subscribe_messages=True)
    listener.subscribe("watchword:alerts", "watchword:alerts:door")
    listener.get_message(timeout=1)
    listener.get_message(timeout=1)
    _publish(store, server.url, "a1")
    heard: set[bytes] = set()

    def both() -> bool:
        if message := listener.get_message(timeout=0.1):
            heard.add(message["channel"])
        return len(heard) == 2

    until(both)
    assert client.xlen("watchword:alerts") == 1
    assert client.hget("watchword:alert:a1", "state") == b"started"
    assert client.get("watchword:snapshot:a1") == b"jpeg"
    assert 0 < client.ttl("watchword:snapshot:a1") <= 7 * 24 * 3600


def test_same_id_twice_is_one_entry(server: EmbeddedRedis, tmp_path: Path) -> None:
    for name in ("one.db", "two.db"):  # a second outbox knows nothing of the first
        store = Store(tmp_path / name)
        _publish(store, server.url, "a1")
        store.close()
    assert redis.Redis.from_url(server.url).xlen("watchword:alerts") == 1


@pytest.mark.fault
def test_killed_server_loses_nothing(server: EmbeddedRedis, store: Store) -> None:
    publisher = Publisher(store, RedisSink(RedisConfig(), server.url))
    publisher.start()
    assert server._process is not None
    server._process.kill()
    server._process.wait()
    store.record([(encode_alert(_alert(name)), None) for name in ("a1", "a2")])
    publisher.wake()
    until(lambda: publisher.failures > 0)
    assert store.depth() == 2
    assert server.revive()
    until(lambda: store.depth() == 0)
    assert publisher.stop() == 0
    assert redis.Redis.from_url(server.url).xlen("watchword:alerts") == 2


def test_since_and_group(server: EmbeddedRedis, store: Store) -> None:
    _publish(store, server.url, "a1", "a2")
    old = subscribe(server.url, since="1h")
    assert [next(old).data["alert_id"] for _ in range(2)] == ["a1", "a2"]
    first = subscribe(server.url, since="1h", group="g")
    assert next(first).data["alert_id"] == "a1"
    first.close()  # type: ignore[attr-defined]  # ends before it acknowledged
    again = subscribe(server.url, group="g")
    assert [next(again).data["alert_id"] for _ in range(2)] == ["a1", "a2"]


def test_parse_since() -> None:
    assert parse_since("5-1") == "5-1"
    assert parse_since("90s", datetime.fromtimestamp(100, timezone.utc)) == f"9999-{2**64 - 1}"
    assert parse_since("1970-01-01T00:00:10Z") == f"9999-{2**64 - 1}"
    for wrong in ("", "soon", "5x", "-3m"):
        with pytest.raises(ValueError, match="--since"):
            parse_since(wrong)


def test_stop_leaves_no_process_and_no_directory() -> None:
    server = EmbeddedRedis()
    server.start()
    pid, directory = server.pid, server._directory
    assert pid is not None
    server.stop()
    server.stop()
    assert not directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_who_names_no_redis_joins_the_newest_run_of_this_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tempfile.TemporaryDirectory() as folder:  # a short path, for a socket
        monkeypatch.setattr(tempfile, "tempdir", folder)
        _joins_the_newest(Path(folder))
        monkeypatch.undo()


def _joins_the_newest(folder: Path) -> None:
    assert redis_of_alerts(None) == "redis://127.0.0.1:6379/0"
    with EmbeddedRedis() as older:
        os.utime(older.socket.parent, (1, 1))
        with EmbeddedRedis() as newer:
            assert running_servers() == [newer.url, older.url]
            assert redis_of_alerts(None) == newer.url
            assert redis_of_alerts("redis://elsewhere") == "redis://elsewhere"
        assert running_servers() == [older.url]
    left_behind = folder / "watchword-redis-killed"
    left_behind.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:  # closed: a socket that nobody answers at
        listener.bind(str(left_behind / "redis.sock"))
    assert running_servers() == []


@pytest.mark.fault
def test_server_dies_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import sys,time,pathlib; from pipeline.alerts import EmbeddedRedis;"
        "s=EmbeddedRedis(pathlib.Path(sys.argv[1])); s.start();"
        "print(s.url, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    client = redis.Redis.from_url(parent.stdout.readline().decode().strip())
    assert client.ping()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()

    def gone() -> bool:
        try:
            client.ping()
        except redis.RedisError:
            return True
        return False

    until(gone)


def test_malformed_url_hides_the_password() -> None:
    with pytest.raises(ValueError, match="not usable") as caught:
        connect("http://user:hunter2@host/0", 1.0)
    assert "hunter2" not in str(caught.value)


def test_snapshot_of_noise_fits() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    jpeg = encode_snapshot(noise, Region(0.1, 0.1, 0.5, 0.5))
    assert jpeg.startswith(b"\xff\xd8")
    assert len(jpeg) <= 64 * 1024
