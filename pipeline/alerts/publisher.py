"""Publishes what waits in the outbox: in order, at least once, never in the pipeline's way."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pipeline.config import RedisConfig
from pipeline.redaction import redact
from pipeline.store import OutboxEntry, Store, StoreError

__all__ = ["Publisher", "connect"]

log = logging.getLogger(__name__)

# One call per event: a repeated id (we died after this call and before noting it) does nothing.
# A refused command ends a script but undoes nothing, so an id is noted only once its entry is in
# the stream: were it noted first, the retry would take an entry that never was for a sent one.
_PUBLISH = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'event', ARGV[3])
redis.call('SET', KEYS[1], '1', 'EX', ARGV[1])
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[3], 'state', ARGV[4], 'event', ARGV[3])
  redis.call('EXPIRE', KEYS[3], ARGV[6])
end
if ARGV[5] ~= '' then redis.call('SET', KEYS[4], ARGV[5], 'EX', ARGV[6]) end
redis.call('PUBLISH', KEYS[2], ARGV[3])
redis.call('PUBLISH', KEYS[5], ARGV[3])
return 1
"""
_SEEN_TTL_S = 7 * 24 * 3600
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.1, 2.0


def connect(url: str, timeout_s: float) -> redis.Redis:
    """Make a client with time-outs and without redis-py's own retries.

    Raises:
        ValueError: The URL is malformed; the text is free of secrets.

    """
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:  # its text may quote part of a password that holds '/', '?' or '#'
        raise ValueError(
            f"Redis URL {redact(url)!r} is not usable: it begins with redis://, rediss:// or "
            "unix://, the port is a number, and '/', '?', '#' in a password are written %2F, %3F, "
            "%23"
        ) from None


class Publisher:
    """One thread from the outbox to Redis.

    Retries for ever with bounded, jittered waits; an event is marked published only after Redis
    has answered. :meth:`publish_caption` is best effort and never waits.
    """

    def __init__(
        self,
        store: Store,
        config: RedisConfig,
        url: str,
        on_published: Callable[[str], None] = lambda event_id: None,
    ) -> None:
        self._store = store
        self._config = config
        self._client = connect(url, config.timeout_s)
        self._caption_client = connect(url, min(config.timeout_s, 0.2))
        self._script = self._client.register_script(_PUBLISH)
        self._on_published = on_published
        self._wake = threading.Event()
        self._drain_by: float | None = None
        self._caption_pause_until_s = 0.0
        self.failures = 0
        self.last_error: str | None = None
        self._thread = threading.Thread(target=self._run, name="watchword-publisher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Say that the outbox has something new."""
        self._wake.set()

    def stop(self, drain_timeout_s: float = 5.0) -> int:
        """Publish what waits, for at most ``drain_timeout_s``, and end; return how many are left.

        What is left stays in the outbox; the next run with the same store publishes it.
        """
        self._drain_by = time.monotonic() + drain_timeout_s
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(drain_timeout_s + 2 * self._config.timeout_s)
        self._client.close()
        self._caption_client.close()
        return self._store.depth()

    def publish_caption(self, camera: str, line: str) -> None:
        """Send a caption line to whoever listens now; an error pauses this for a second."""
        if time.monotonic() < self._caption_pause_until_s:
            return
        try:
            self._caption_client.publish(f"{self._config.prefix}:captions:{camera}", line)
        except redis.RedisError as error:
            self._caption_pause_until_s = time.monotonic() + 1.0
            log.debug("caption not published: %s", redact(str(error)))

    def _run(self) -> None:
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                sent = self._publish_pending()
                retry_s = _FIRST_RETRY_S
            except Exception as error:  # this thread ends only when told to
                if not isinstance(error, (redis.RedisError, StoreError)):
                    log.exception("publisher: unexpected error; trying again")
                self._note(error)
                if self._past_drain():
                    return
                time.sleep(random.uniform(0.5, 1.0) * retry_s)
                retry_s = min(2 * retry_s, _LONGEST_RETRY_S)
                continue
            if self._drain_by is not None and not sent:
                return
            if not sent:
                self._wake.wait(1.0)
                self._wake.clear()

    def _publish_pending(self) -> int:
        entries = self._store.pending()
        for entry in entries:
            self._publish(entry)
            self._store.mark_published(entry.seq)
            self._on_published(entry.id)
        if entries and self.last_error is not None:
            log.warning("Redis is back; %d waiting events published", len(entries))
            self.last_error = None
        return len(entries)

    def _publish(self, entry: OutboxEntry) -> None:
        prefix = self._config.prefix
        event = json.loads(entry.event)
        alert_id = event["data"].get("alert_id", "")
        state = event["type"].rsplit(".", 1)[1] if alert_id else ""
        keys = [
            f"{prefix}:seen:{entry.id}",
            f"{prefix}:alerts",
            f"{prefix}:alert:{alert_id}",
            f"{prefix}:snapshot:{alert_id}",
            f"{prefix}:alerts:{event['data']['camera']}",
        ]
        arguments = [
            _SEEN_TTL_S,
            self._config.stream_max_length,
            entry.event,
            state,
            entry.snapshot or b"",
            self._config.snapshot_ttl_s,
        ]
        self._script(keys=keys, args=arguments)

    def _note(self, error: Exception) -> None:
        self.failures += 1
        text = redact(str(error))
        if self.last_error is None:
            log.warning("alerts wait in the outbox: %s", text)
        self.last_error = text

    def _past_drain(self) -> bool:
        return self._drain_by is not None and time.monotonic() > self._drain_by
