"""Connections to Redis: plain, TLS, Unix socket or Sentinel; and what a server must be set to."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry
from redis.sentinel import Sentinel

from pipeline.errors import WrongUse
from pipeline.redaction import redact_url

__all__ = ["RedisUnfit", "connect", "unfit_settings"]

_SENTINEL = re.compile(r"rediss?\+sentinel://")
_OLDEST = (6, 2)  # XAUTOCLAIM


class RedisUnfit(Exception):
    """The server cannot carry alerts, however often it is asked; one sentence with what to do."""


def connect(url: str, timeout_s: float) -> redis.Redis:
    """Make a client with time-outs and without redis-py's own retries; connects when first used.

    ``url`` is ``redis://[user:password@]host[:port][/db]``, ``rediss://…`` (TLS; the query may
    name ``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile``), ``unix://[user:password@]/path`` or
    ``redis+sentinel://[user:password@]host[:port],…/SERVICE[/db]`` (``rediss+sentinel`` for TLS;
    the query may name ``sentinel_username`` and ``sentinel_password``).

    Raises:
        WrongUse: The URL is malformed or names a cluster; the text is free of secrets.

    """
    if url.startswith(("redis+cluster://", "rediss+cluster://")):
        raise WrongUse(
            f"Redis URL {redact_url(url)!r}: Redis Cluster is not supported, as one call writes "
            "the stream, the review state and the snapshot together, which lie in different slots; "
            "use a single server, or Sentinel"
        )
    settings: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    try:
        if _SENTINEL.match(url):
            return _sentinel(url, settings)
        return redis.Redis.from_url(url, **settings)
    except (ValueError, TypeError):  # its text may quote part of a password with '/', '?' or '#'
        raise WrongUse(
            f"Redis URL {redact_url(url)!r} is not usable: it begins with redis://, rediss://, "
            "unix:// or redis+sentinel://, the port is a number, and '/', '?', '#' in a password "
            "are written %2F, %3F, %23"
        ) from None


def unfit_settings(client: redis.Redis) -> list[str]:
    """Say what of the server's settings puts alerts at risk, one sentence each.

    Raises:
        RedisUnfit: It is a cluster or too old.
        redis.RedisError: It cannot be reached or does not let us in.

    """
    try:
        facts: Any = client.info()
    except NoPermissionError:
        return ["may not be asked for its settings (INFO): is append-only on, nothing evicted?"]
    version = str(facts.get("redis_version", "0"))
    if int(facts.get("cluster_enabled", 0)):
        raise RedisUnfit(
            "is a cluster, where one call cannot write the keys of several slots; use a single "
            "server, or Sentinel"
        )
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        raise RedisUnfit(f"is version {version}; 6.2 or newer is needed")
    return _risks(facts)


def _risks(facts: dict[str, Any]) -> list[str]:
    found = []
    if not int(facts.get("aof_enabled", 0)):
        found.append("keeps no append-only file and may lose alerts; set `appendonly yes`")
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        found.append(f"may evict alerts ({policy}); set `maxmemory-policy noeviction`")
    if facts.get("role") != "master":
        found.append("is a replica and takes no writes; give the URL of the master, or Sentinel's")
    return found


def _sentinel(url: str, settings: dict[str, Any]) -> redis.Redis:
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("no service")
    query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    ssl: dict[str, Any] = {"ssl": True} if parts.scheme.startswith("rediss") else {}
    ssl |= {key: query.pop(key) for key in tuple(query) if key.startswith("ssl_")}
    guards = {name: query.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    if query:
        raise ValueError("unknown option")
    user, _, password = login.partition(":")
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        [_host(text) for text in hosts.split(",")],
        sentinel_kwargs={**settings, **ssl, **guards},
        **settings,
        **ssl,
    )
    master: redis.Redis = sentinel.master_for(  # type: ignore[no-untyped-call]
        service,
        db=int(database or 0),
        username=unquote(user) or None,
        password=unquote(password) or None,
    )
    return master


def _host(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return (host, int(port)) if host else (text, 26379)
