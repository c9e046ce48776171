"""The sink that every run has: Redis, written by one idempotent call an event."""

from __future__ import annotations

import json
import logging
import time

import redis

from pipeline.alerts.publisher import SinkError
from pipeline.alerts.redis_client import RedisUnfit, connect, unfit_settings
from pipeline.config import RedisConfig
from pipeline.redaction import redact
from pipeline.store import REDIS, OutboxEntry

__all__ = ["RedisSink"]

log = logging.getLogger(__name__)

# One call per event: a repeated id (we died after this call and before noting it) does nothing.
# A refused command ends a script but undoes nothing, so an id is noted only once its entry is in
# the stream: were it noted first, the retry would take an entry that never was for a sent one.
_PUBLISH = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'event', ARGV[3])
redis.call('SET', KEYS[1], '1', 'EX', ARGV[1])
if ARGV[4] ~= '' then
  if ARGV[4] == 'escalated' then  -- beside the alert's state: one that is over may escalate too
    redis.call('HSET', KEYS[3], 'escalated', ARGV[3])
  else
    redis.call('HSET', KEYS[3], 'state', ARGV[4], 'event', ARGV[3])
  end
  -- a review, or a longer time set before, may have more left
  if redis.call('TTL', KEYS[3]) < tonumber(ARGV[8]) then redis.call('EXPIRE', KEYS[3], ARGV[8]) end
  local now = redis.call('TIME')[1]
  redis.call('ZADD', KEYS[6], 'NX', now, ARGV[7])
  redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', now - ARGV[8])
end
if ARGV[5] ~= '' then redis.call('SET', KEYS[4], ARGV[5], 'EX', ARGV[6]) end
redis.call('PUBLISH', KEYS[2], ARGV[3])
redis.call('PUBLISH', KEYS[5], ARGV[3])
return 1
"""
_SEEN_TTL_S = 7 * 24 * 3600
_ALERT_TTL_S = 7 * 24 * 3600
"""An alert can be answered so long at least, however soon its picture goes."""


class RedisSink:
    """Stream, Pub/Sub, review hash, index of alerts and snapshot: see ``docs/alerts.md``.

    Raises:
        WrongUse: The URL is malformed.

    """

    name = REDIS
    longest_retry_s = 2.0

    def __init__(self, config: RedisConfig, url: str) -> None:
        self._config = config
        self.timeout_s = config.timeout_s
        self._client = connect(url, config.timeout_s)
        self._caption_client = connect(url, min(config.timeout_s, 0.2))
        self._script = self._client.register_script(_PUBLISH)
        self._checked = False
        self._caption_pause_until_s = 0.0

    def check(self) -> None:
        """Look at the server's settings once, and say what puts alerts at risk.

        Raises:
            RedisUnfit: It can never work with this server.
            redis.RedisError: It cannot be asked now; it is again before the first event.

        """
        if self._checked:
            return
        for risk in unfit_settings(self._client):
            log.warning("Redis %s", risk)
        self._checked = True

    def send(self, entry: OutboxEntry) -> None:
        """Publish one event.

        Raises:
            SinkError: Redis cannot be reached, or refuses.

        """
        try:
            self.check()
            self._call(entry)
        except redis.RedisError as error:
            raise SinkError(redact(str(error))) from error
        except RedisUnfit as error:
            raise SinkError(f"Redis {error}") from error

    def idle(self) -> None:
        """Nothing to do without an event."""

    def publish_caption(self, camera: str, line: str) -> None:
        """Send a caption line to whoever listens now; an error pauses this for a second."""
        if time.monotonic() < self._caption_pause_until_s:
            return
        try:
            self._caption_client.publish(f"{self._config.prefix}:captions:{camera}", line)
        except redis.RedisError as error:
            self._caption_pause_until_s = time.monotonic() + 1.0
            log.debug("caption not published: %s", redact(str(error)))

    def problem(self) -> str | None:
        """Why Redis does not answer now, free of secrets; None when it does. Asks it."""
        try:
            self._caption_client.ping()
        except redis.RedisError as error:
            return redact(str(error))
        return None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._caption_client.close()

    def _call(self, entry: OutboxEntry) -> None:
        prefix = self._config.prefix
        event = json.loads(entry.event)
        data = event["data"]
        alert_id = data.get("alert_id", "")
        keys = [
            f"{prefix}:seen:{entry.id}",
            f"{prefix}:alerts",
            f"{prefix}:alert:{alert_id}",
            f"{prefix}:snapshot:{alert_id}",
            f"{prefix}:alerts:{data['camera']}",
            f"{prefix}:alert_ids",
        ]
        arguments = [
            _SEEN_TTL_S,
            self._config.stream_max_length,
            entry.event,
            event["type"].rsplit(".", 1)[1] if alert_id else "",
            entry.snapshot or b"",
            self._config.snapshot_ttl_s,
            alert_id,
            max(_ALERT_TTL_S, self._config.snapshot_ttl_s),
        ]
        self._script(keys=keys, args=arguments)
