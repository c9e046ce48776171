"""Every kind of Redis an alert may go to, and those it must not."""

from __future__ import annotations

import contextlib
import re
import ssl
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from itertools import count
from pathlib import Path

import pytest
import redis
import trustme
from valkey_server import free_port, tls_in_front, valkey
from waiting import until

from pipeline.alerts import (
    EmbeddedRedis,
    Publisher,
    RedisSink,
    Reviewer,
    encode_alert,
    subscribe,
)
from pipeline.alerts.redis_client import RedisUnfit, connect, unfit_settings
from pipeline.alerts.server import EmbeddedRedisError
from pipeline.config import RedisConfig
from pipeline.messages import Alert, AlertState, FrameStamp
from pipeline.store import Store

_AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
_DURABLE = ("--appendonly", "yes", "--save", "")


def _record(store: Store, name: str) -> None:
    stamp = FrameStamp("door", 1, _AT, 0, 2.0)
    alert = Alert(
        name, 1, AlertState.STARTED, "dogs", "high", (), stamp, _AT, _AT, _AT, 1, "a dog",
        0.5, (),
    )  # fmt: skip
    store.record([(encode_alert(alert), None)])


def _publish(store: Store, url: str, name: str = "a1") -> Publisher:
    _record(store, name)
    publisher = Publisher(store, RedisSink(RedisConfig(timeout_s=0.5), url))
    publisher.start()
    return publisher


def _heard(url: str) -> str:
    return str(next(subscribe(url, since="1h")).data["alert_id"])


def test_unix_socket_is_the_users_own(server: EmbeddedRedis, store: Store) -> None:
    assert server.url.startswith("unix:///")
    assert stat.S_IMODE(server.socket.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE(server.socket.parent.stat().st_mode) & 0o077 == 0
    assert redis.Redis.from_url(server.url).config_get("port") == {"port": "0"}
    assert _publish(store, server.url).stop() == 0
    assert _heard(server.url) == "a1"


def test_socket_path_that_is_too_long_is_said(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedRedisError, match="too long"):
        EmbeddedRedis(tmp_path / ("x" * 120)).start()


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A server behind TLS: its port, and the authority that vouches for it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with valkey(tmp_path, *_DURABLE) as port, tls_in_front(port, context) as secure:
        yield secure, tmp_path / "ca.pem"


def test_tls_with_the_right_authority(tls: tuple[int, Path], store: Store) -> None:
    url = f"rediss://127.0.0.1:{tls[0]}/0?ssl_ca_certs={tls[1]}"
    assert _publish(store, url).stop() == 0
    assert _heard(url) == "a1"


def test_tls_of_a_stranger_is_not_trusted(
    tls: tuple[int, Path], store: Store, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    url = f"rediss://127.0.0.1:{tls[0]}/0?ssl_ca_certs={tmp_path / 'other.pem'}"
    publisher = _publish(store, url)
    until(lambda: publisher.failures > 0)
    assert "certificate" in str(publisher.last_error).lower()
    assert publisher.stop(0.1) == 1


def test_acl_user_with_the_documented_rights(server: EmbeddedRedis, store: Store) -> None:
    guide = (Path(__file__).parents[1] / "docs" / "alerts.md").read_text(encoding="utf-8")
    rights = guide.partition("An ACL user needs")[2].partition("Redis Cluster")[0]
    commands = re.findall(r"`([A-Z ]+)`", rights)
    assert {"EVAL", "XADD", "XACK", "SCRIPT LOAD"} <= set(commands)
    admin = redis.Redis.from_url(server.url)
    admin.acl_setuser(
        "writer", enabled=True, passwords=["+hunter3"], keys=["watchword:*"],
        channels=["watchword:*"], reset=True,
        commands=[f"+{name.lower().replace(' ', '|')}" for name in commands],
    )  # fmt: skip
    url = server.url.replace("//", "//writer:hunter3@")
    publisher = _publish(store, url)
    assert publisher.stop() == 0
    assert publisher.failures == 0
    assert admin.xlen("watchword:alerts") == 1
    for group in (None, "desk", "desk"):  # the second time it is there
        events = subscribe(url, since="1d", group=group, consumer="a", claim_idle_s=0.0)
        assert next(events).data["alert_id"] == "a1"
        events.close()
    with connect(url, 1.0) as client:
        assert [record.id for record in Reviewer(client).list()] == ["a1"]
        assert Reviewer(client).acknowledge("a", "ann").revision == 1


def test_an_alert_can_be_answered_when_its_picture_has_gone(
    server: EmbeddedRedis, store: Store
) -> None:
    week_s, revisions = 7 * 24 * 3600, count(1)

    def publish(alert_id: str, snapshot_ttl_s: int) -> None:
        _record(store, alert_id)
        (entry,) = store.pending()
        store.mark_published(entry.seq)
        sink = RedisSink(RedisConfig(timeout_s=0.5, snapshot_ttl_s=snapshot_ttl_s), server.url)
        sink.send(replace(entry, id=f"{entry.id}{next(revisions)}"))
        sink.close()

    publish("a1", 1)
    with connect(server.url, 1.0) as client:
        client.zadd("watchword:alert_ids", {"a1": time.time() - 3600})  # begun an hour ago
        publish("a2", 1)
        assert {record.id for record in Reviewer(client).list()} == {"a1", "a2"}
        assert Reviewer(client).acknowledge("a1", "ann").revision == 1
        assert week_s - 60 < client.ttl("watchword:alert:a1") <= week_s
        publish("a1", 4 * week_s)
        assert client.ttl("watchword:alert:a1") > 4 * week_s - 60
        publish("a1", 1)
        assert client.ttl("watchword:alert:a1") > 4 * week_s - 60, "never less than it had"


def test_wrong_password_waits_and_is_not_shown(
    server: EmbeddedRedis, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = _publish(store, server.url.replace("//", "//writer:hunter2@"))
    until(lambda: publisher.failures > 0)
    assert publisher.stop(0.1) == 1
    assert "wait in the outbox" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.fault
def test_sentinel_is_followed_to_the_new_master(tmp_path: Path, store: Store) -> None:
    places = {name: tmp_path / name for name in ("one", "two", "sentinel")}
    for place in places.values():
        place.mkdir()
    with contextlib.ExitStack() as stack:
        first = contextlib.ExitStack()
        stack.enter_context(first)
        one = first.enter_context(valkey(places["one"], *_DURABLE))
        replica = ("--replicaof", f"127.0.0.1 {one}", "--repl-diskless-sync-delay", "0")
        two = stack.enter_context(valkey(places["two"], *_DURABLE, *replica))
        settings = places["sentinel"] / "sentinel.conf"
        settings.write_text(
            f"sentinel monitor mine 127.0.0.1 {one} 1\n"
            "sentinel down-after-milliseconds mine 500\n"
            "sentinel failover-timeout mine 3000\n"
        )
        guard = stack.enter_context(
            valkey(places["sentinel"], str(settings), "--sentinel", port=free_port())
        )
        sentinel = redis.Redis(port=guard, decode_responses=True)
        until(
            lambda: int(sentinel.execute_command("SENTINEL", "MASTER", "mine")["num-slaves"]) == 1
        )
        replicated = redis.Redis(port=two)
        until(lambda: replicated.info("replication")["master_link_status"] == "up")
        url = f"redis+sentinel://127.0.0.1:{guard}/mine/0"
        publisher = _publish(store, url)
        until(lambda: store.depth() == 0)
        until(lambda: replicated.xlen("watchword:alerts") == 1)
        first.close()
        _record(store, "a2")
        publisher.wake()
        until(lambda: store.depth() == 0, 30.0)
        assert publisher.stop() == 0
        ids = [
            fields[b"event"].count(b'"a2"') for _, fields in replicated.xrange("watchword:alerts")
        ]
        assert ids == [0, 1]


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://host:26379",
        "redis+sentinel://host:26379/mine/x",
        "redis+sentinel://host:port/mine",
        "redis+sentinel://user:hunter2@host/mine?odd=1",
        "http://user:hunter2@host",
    ],
)
def test_malformed_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not usable") as caught:
        connect(url, 1.0)
    assert "hunter2" not in str(caught.value)


def test_cluster_is_refused_by_url_and_by_what_the_server_says(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="different slots"):
        connect("redis+cluster://host", 1.0)
    # A bus port of its own: by default it is 10,000 above the other, which may be beyond 65,535.
    bus = ["--cluster-port", str(free_port())]
    with valkey(tmp_path, "--cluster-enabled", "yes", *bus) as port:
        client = connect(f"redis://127.0.0.1:{port}/0", 1.0)
        with pytest.raises(RedisUnfit, match="cluster"):
            unfit_settings(client)


def test_settings_that_may_lose_alerts_are_said(
    tmp_path: Path, server: EmbeddedRedis, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    assert unfit_settings(connect(server.url, 1.0)) == []
    with valkey(tmp_path, "--appendonly", "no", "--maxmemory-policy", "allkeys-lru") as port:
        _publish(store, f"redis://127.0.0.1:{port}/0").stop()
    assert "append-only" in caplog.text
    assert "allkeys-lru" in caplog.text
    assert caplog.text.count("append-only") == 1
