"""People answer alerts: acknowledged, snoozed, resolved. Kept in Redis and published like alerts.

An alert's review is in its hash beside what the rules say of it; a change is one atomic call
that writes the hash and publishes an event, and that fails when somebody else was faster.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import redis

from pipeline.alerts.codec import encode_review
from pipeline.messages import Review, ReviewState
from pipeline.outputs.lines import utc_moment

__all__ = ["AlertRecord", "ReviewError", "Reviewer", "UnknownAlertError"]

# The revision says whether the hash is still what the caller has read.
_CHANGE = """
if redis.call('EXISTS', KEYS[1]) == 1 or ARGV[7] == '1' then
  if (redis.call('HGET', KEYS[1], 'review_revision') or '0') ~= ARGV[1] then return 0 end
  redis.call('HSET', KEYS[1], 'review_revision', ARGV[2], 'review', ARGV[3])
  redis.call('HSET', KEYS[1], 'review_event', ARGV[4])
  if redis.call('TTL', KEYS[1]) < tonumber(ARGV[5]) then redis.call('EXPIRE', KEYS[1], ARGV[5]) end
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[6], '*', 'event', ARGV[4])
  redis.call('PUBLISH', KEYS[2], ARGV[4])
  redis.call('PUBLISH', KEYS[3], ARGV[4])
  return 1
end
return -1
"""
_REVIEW_TTL_S = 7 * 24 * 3600
_ATTEMPTS = 20


class ReviewError(Exception):
    """The review cannot be changed so; one sentence with what to do."""


class UnknownAlertError(ReviewError):
    """No alert has this id, or one that begins so."""


@dataclass(frozen=True, slots=True)
class AlertRecord:
    """An alert as Redis knows it: the rules' last word and people's.

    ``data`` is that of the last CloudEvent; ``review`` that of the last change, or None.
    """

    state: str
    data: dict[str, Any]
    review_state: ReviewState | None
    review: dict[str, Any] | None
    escalated: bool = False

    @property
    def id(self) -> str:
        """The alert's id."""
        return str(self.data["alert_id"])

    @property
    def status(self) -> str:
        """One word: ``open`` or ``over`` while nobody has answered, else the answer.

        A snooze that has run out answers nothing any more.
        """
        if self.review_state is not None and not self._snooze_is_over:
            return self.review_state.value
        return "over" if self.state == "ended" else "open"

    @property
    def _snooze_is_over(self) -> bool:
        until = (self.review or {}).get("until")
        if until is None:
            return False
        return utc_moment(until) <= datetime.now(timezone.utc)

    def to_json(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "status": self.status,
            "state": self.state,
            "escalated": self.escalated,
            "alert": self.data,
            "review": self.review,
        }


class Reviewer:
    """Lists alerts and changes their review.

    Args:
        client: A connection; see :func:`pipeline.alerts.redis_client.connect`.
        prefix: Of all keys.
        stream_max_length: What the stream is trimmed to.

    Every method raises ``redis.RedisError`` when Redis does not answer.

    """

    def __init__(
        self, client: redis.Redis, prefix: str = "watchword", stream_max_length: int = 100_000
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._max_length = stream_max_length
        self._script = client.register_script(_CHANGE)

    def list(self, limit: int | None = None) -> list[AlertRecord]:
        """Alerts whose state Redis still has, the last started first."""
        ids: Any = self._client.zrevrange(f"{self._prefix}:alert_ids", 0, -1)
        found: list[AlertRecord] = []
        for raw in ids:
            record = self._read(raw.decode())
            if record is not None:
                found.append(record)
            if limit is not None and len(found) >= limit:
                break
        return found

    def show(self, alert_id: str) -> AlertRecord:
        """One alert; the beginning of its id is enough where it fits one only.

        Raises:
            UnknownAlertError: There is none.
            ReviewError: There is more than one.

        """
        record = self._read(alert_id)
        if record is not None:
            return record
        ids: Any = self._client.zrevrange(f"{self._prefix}:alert_ids", 0, -1)
        fitting = [raw.decode() for raw in ids if raw.decode().startswith(alert_id)]
        if len(fitting) > 1:
            raise ReviewError(f"alert {alert_id!r} fits {len(fitting)} alerts; give more of its id")
        record = self._read(fitting[0]) if fitting else None
        if record is None:
            raise UnknownAlertError(
                f"no alert {alert_id!r} in this Redis; `watchword alerts list` shows those it has"
            )
        return record

    def acknowledge(self, alert_id: str, by: str, note: str = "") -> Review:
        """Say that somebody has seen it; it escalates no more."""
        return self._change(alert_id, ReviewState.ACKNOWLEDGED, by, note)

    def resolve(self, alert_id: str, by: str, note: str = "") -> Review:
        """Say that nothing is left to do about it."""
        return self._change(alert_id, ReviewState.RESOLVED, by, note)

    def snooze(self, alert_id: str, duration_s: float, by: str, note: str = "") -> Review:
        """Let the alert's rule start no new alert on its camera for so long."""
        return self._change(alert_id, ReviewState.SNOOZED, by, note, duration_s)

    def snooze_rule(
        self, camera: str, rule: str, duration_s: float, by: str, note: str = ""
    ) -> Review:
        """Let rules (a glob) start no alert on cameras (a glob) for so long."""
        now = datetime.now(timezone.utc)
        name = hashlib.sha256(f"{camera}\0{rule}\0{now.isoformat()}".encode()).hexdigest()[:20]
        review = Review(
            f"snooze-{name}", 1, ReviewState.SNOOZED, camera, rule, now, by, note,
            now + timedelta(seconds=duration_s),
        )  # fmt: skip
        self._write(review, known=False)
        return review

    def _change(
        self, alert_id: str, state: ReviewState, by: str, note: str, duration_s: float | None = None
    ) -> Review:
        for _ in range(_ATTEMPTS):
            record = self.show(alert_id)
            _refuse(record, state)
            now = datetime.now(timezone.utc)
            until = None if duration_s is None else now + timedelta(seconds=duration_s)
            revision = 1 + (record.review or {}).get("revision", 0)
            data = record.data
            review = Review(
                record.id, revision, state, data["camera"], data["rule"], now, by, note, until
            )
            if self._write(review, known=True):
                return review
        raise ReviewError(f"alert {alert_id} is being changed by others all the time; try again")

    def _write(self, review: Review, known: bool) -> bool:
        keys = [
            f"{self._prefix}:alert:{review.alert_id}",
            f"{self._prefix}:alerts",
            f"{self._prefix}:alerts:{review.camera}",
        ]
        arguments = [
            review.revision - 1,
            review.revision,
            review.state.value,
            json.dumps(encode_review(review), ensure_ascii=False),
            _REVIEW_TTL_S,
            self._max_length,
            "0" if known else "1",
        ]
        done: Any = self._script(keys=keys, args=arguments)
        return int(done) == 1

    def _read(self, alert_id: str) -> AlertRecord | None:
        raw: Any = self._client.hgetall(f"{self._prefix}:alert:{alert_id}")
        fields = {key.decode(): value.decode() for key, value in raw.items()}
        if "event" not in fields:
            return None
        review = json.loads(fields["review_event"])["data"] if "review_event" in fields else None
        state = ReviewState(fields["review"]) if "review" in fields else None
        data = json.loads(fields["event"])["data"]
        return AlertRecord(fields["state"], data, state, review, "escalated" in fields)


def _refuse(record: AlertRecord, wanted: ReviewState) -> None:
    review = record.review or {}
    if record.review_state is ReviewState.RESOLVED:
        raise ReviewError(f"alert {record.id} was resolved by {review['by']} at {review['time']}")
    if record.review_state is wanted is ReviewState.ACKNOWLEDGED:
        raise ReviewError(
            f"alert {record.id} was acknowledged by {review['by']} at {review['time']}"
        )
