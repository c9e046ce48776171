"""Follow alerts: live ones, those missed, and with a group those not yet acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import json
import logging
import random
import re
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import redis

from pipeline.alerts.redis_client import connect
from pipeline.errors import WrongUse
from pipeline.moments import parse_moment
from pipeline.redaction import redact

__all__ = ["Event", "Subscription", "parse_since", "subscribe", "subscribe_async"]

log = logging.getLogger(__name__)

_STREAM_ID = re.compile(r"\d+-\d+")
_BLOCK_MS = 500
_REMEMBERED_IDS = 10_000
_FIRST_PAUSE_S = 0.1
_LAST_IN_MS = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Event:
    """An event as a subscriber gets it."""

    id: str
    type: str
    time: str
    data: dict[str, Any]
    stream_id: str
    envelope: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The whole event as it was published (``docs/events.schema.json``)."""

    @property
    def camera(self) -> str:
        """The camera's name."""
        return str(self.data["camera"])

    @property
    def rule(self) -> str | None:
        """The rule's name, or None for a camera event."""
        return self.data.get("rule")


@dataclass(frozen=True, slots=True)
class Subscription:
    """What to follow; see :func:`subscribe`."""

    cameras: str = "*"
    rule: str | None = None
    type: str | None = None
    since: str | None = None
    group: str | None = None
    consumer: str = "default"
    prefix: str = "watchword"
    timeout_s: float = 5.0
    claim_idle_s: float = 30.0
    """After so long without an acknowledgement, another consumer of the group takes an event."""
    keep_going: Callable[[], bool] = field(default=lambda: True, compare=False)

    def wants(self, event: Event) -> bool:
        """Whether the filters let this event through."""
        return (
            fnmatch.fnmatchcase(event.camera, self.cameras)
            and self.rule in (None, event.rule)
            and (self.type is None or fnmatch.fnmatchcase(event.type, self.type))
        )


def parse_since(text: str, now: datetime | None = None) -> str:
    """Return the stream id to start *after*: TIME (RFC 3339), AGE (90s, 15m, 1h, 2d) or ID.

    Raises:
        WrongUse: It is none of them.

    """
    if _STREAM_ID.fullmatch(text):
        return text
    try:
        moment = parse_moment(text, now)
    except WrongUse:
        raise WrongUse(
            f"--since {text!r} is not a time (2026-11-23T06:00:00Z), an age (90s, 15m, 1h, 2d) "
            "or a stream id (1764000000000-0)"
        ) from None
    return _before(moment)


def _before(moment: datetime) -> str:
    """The last id before a millisecond: reading starts after it, so with the first of that one."""
    milliseconds = int(moment.timestamp() * 1000)
    return f"{milliseconds - 1}-{_LAST_IN_MS}" if milliseconds > 0 else "0-0"


def subscribe(redis_url: str, **options: Any) -> Iterator[Event]:
    """Follow events for ever, reconnecting when Redis goes away.

    Keyword arguments are the fields of :class:`Subscription`: ``cameras`` (a glob), ``rule``,
    ``type`` (a glob), ``since`` (see :func:`parse_since`), ``group`` and ``consumer``,
    ``prefix``, ``keep_going`` (asked between reads; False ends the iteration). With a group an
    event is acknowledged when the loop comes back for the next one.

    Raises:
        WrongUse: A malformed URL or ``since``.

    """
    wanted = Subscription(**options)
    client = connect(redis_url, wanted.timeout_s)
    start = "$" if wanted.since is None else parse_since(wanted.since)
    reader = _GroupReader(client, wanted, start) if wanted.group else _Reader(client, wanted, start)
    try:
        yield from _follow(reader, wanted)
    finally:
        reader.close()
        client.close()


def _follow(reader: _Reader | _GroupReader, wanted: Subscription) -> Iterator[Event]:
    seen: OrderedDict[str, None] = OrderedDict()
    pause_s = _FIRST_PAUSE_S
    while wanted.keep_going():
        try:
            entries = reader.read()
        except redis.RedisError as error:
            if pause_s == _FIRST_PAUSE_S:  # said once an outage
                log.warning(
                    "Redis cannot be read (%s); trying again. Is a run going on, or its "
                    "--redis-url another?",
                    redact(str(error)).rstrip("."),
                )
            time.sleep(random.uniform(0.5, 1.0) * pause_s)
            pause_s = min(2 * pause_s, 2.0)
            continue
        if pause_s != _FIRST_PAUSE_S:
            log.warning("Redis can be read again")
            pause_s = _FIRST_PAUSE_S
        for stream_id, event in entries:
            if event is not None and event.id not in seen and wanted.wants(event):
                yield event
            if event is not None:
                seen[event.id] = None
                if len(seen) > _REMEMBERED_IDS:
                    seen.popitem(last=False)
            reader.done(stream_id)


async def subscribe_async(redis_url: str, **options: Any) -> AsyncIterator[Event]:
    """:func:`subscribe` for ``async for``: a thread of its own reads, the event loop never waits.

    Cancelled or left early, it hangs up within a read's half second; with a group, an event that
    was not handled to its end is delivered again.
    """
    stopped = threading.Event()
    inner = options.pop("keep_going", lambda: True)
    events = subscribe(redis_url, keep_going=lambda: not stopped.is_set() and inner(), **options)
    loop = asyncio.get_running_loop()
    # One thread: what closes the reader queues behind the read that may still be going on.
    reader = ThreadPoolExecutor(1, thread_name_prefix="watchword-subscriber")
    try:
        while (event := await loop.run_in_executor(reader, next, events, None)) is not None:
            yield event
    finally:
        stopped.set()
        reader.submit(events.close)  # type: ignore[attr-defined] # a generator
        reader.shutdown(wait=False)


class _Reader:
    """Reads the stream from a position on."""

    def __init__(self, client: redis.Redis, wanted: Subscription, start: str) -> None:
        self._client = client
        self._stream = f"{wanted.prefix}:alerts"
        self._position = start

    def read(self) -> list[tuple[str, Event | None]]:
        self._position = _fixed(self._client, self._stream, self._position)
        reply: Any = self._client.xread({self._stream: self._position}, count=100, block=_BLOCK_MS)
        entries = _entries(reply)
        if entries:
            _warn_of_gap(self._client, self._stream, self._position)
        return [_parse(entry) for entry in entries]

    def done(self, stream_id: str) -> None:
        self._position = stream_id

    def close(self) -> None:
        """Nothing is owed."""


class _GroupReader:
    """Reads as one consumer of a group: first what it has not acknowledged, then what is new."""

    def __init__(self, client: redis.Redis, wanted: Subscription, start: str) -> None:
        self._client = client
        self._stream = f"{wanted.prefix}:alerts"
        self._group, self._consumer = str(wanted.group), wanted.consumer
        self._claim_idle_ms = int(wanted.claim_idle_s * 1000)
        self._position = start
        self._own_first = True
        self._created = False
        self._to_acknowledge: list[str] = []

    def read(self) -> list[tuple[str, Event | None]]:
        try:
            return self._read()
        except redis.ResponseError as error:
            if str(error).startswith("NOGROUP"):  # Redis lost its data: make the group anew
                self._created = False
                self._to_acknowledge.clear()
            raise

    def _read(self) -> list[tuple[str, Event | None]]:
        if not self._created:
            self._create()
        self._acknowledge()
        if self._own_first:
            mine: Any = self._client.xreadgroup(
                self._group, self._consumer, {self._stream: "0"}, count=100
            )
            if entries := _entries(mine):
                return [_parse(entry) for entry in entries]
            self._own_first = False
        claimed: Any = self._client.xautoclaim(
            self._stream, self._group, self._consumer, self._claim_idle_ms, "0-0", count=100
        )
        if claimed[1]:
            return [_parse(entry) for entry in claimed[1]]
        reply: Any = self._client.xreadgroup(
            self._group, self._consumer, {self._stream: ">"}, count=100, block=_BLOCK_MS
        )
        entries = _entries(reply)
        if entries:
            _warn_of_gap(self._client, self._stream, self._position)
            self._position = entries[-1][0].decode()
        return [_parse(entry) for entry in entries]

    def done(self, stream_id: str) -> None:
        self._to_acknowledge.append(stream_id)
        try:
            self._acknowledge()
        except redis.RedisError as error:  # acknowledged before the next read instead
            log.warning("Redis does not take the acknowledgement yet (%s)", redact(str(error)))

    def close(self) -> None:
        """Try once more to acknowledge; what fails comes again, to whoever is next."""
        with contextlib.suppress(redis.RedisError):
            self._acknowledge()

    def _acknowledge(self) -> None:
        if self._to_acknowledge:
            self._client.xack(self._stream, self._group, *self._to_acknowledge)
            self._to_acknowledge.clear()

    def _create(self) -> None:
        self._position = _fixed(self._client, self._stream, self._position)
        try:
            self._client.xgroup_create(self._stream, self._group, self._position, mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
            self._position = self._last_delivered()
        self._created = True

    def _last_delivered(self) -> str:
        """Where the group stands that is there already."""
        groups: Any = self._client.xinfo_groups(self._stream)
        mine = next(group for group in groups if _text(group["name"]) == self._group)
        return _text(mine["last-delivered-id"])


def _fixed(client: redis.Redis, stream: str, position: str) -> str:
    """``$`` as the id it means now: a later ``$`` would skip what came during a reconnect."""
    if position != "$":
        return position
    last: Any = client.xrevrange(stream, count=1)
    return _text(last[0][0]) if last else "0-0"


def _warn_of_gap(client: redis.Redis, stream: str, position: str) -> None:
    """Say so when the stream was trimmed beyond the position this reader stood at."""
    first: Any = client.xrange(stream, count=1)
    if not first or _order(_text(first[0][0])) <= _order(position):
        return
    info: Any = client.xinfo_stream(stream)
    if info.get("entries-added", info["length"] + 1) > info["length"]:  # Redis < 7 does not count
        log.warning(
            "events between %s and %s may be missing: Redis trimmed them before they were read; "
            "raise redis.stream_max_length to keep more",
            position,
            _text(first[0][0]),
        )


def _order(stream_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in stream_id.split("-"))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _entries(reply: Any) -> list[Any]:
    """Entries of one stream, from RESP2's list of pairs or RESP3's mapping."""
    if not reply:
        return []
    pairs = reply.items() if isinstance(reply, dict) else reply
    found = [entry for _, entries in pairs for entry in entries]
    return found[0] if found and isinstance(found[0], list) else found


def _parse(entry: Any) -> tuple[str, Event | None]:
    stream_id = entry[0].decode()
    try:
        event = json.loads(entry[1][b"event"])
        data = event["data"]
        if not isinstance(data, dict) or "camera" not in data:
            raise ValueError("no data of a camera")
        return stream_id, Event(event["id"], event["type"], event["time"], data, stream_id, event)
    except (KeyError, TypeError, ValueError):
        log.warning("entry %s of the stream is no event of ours; passed over", stream_id)
        return stream_id, None
