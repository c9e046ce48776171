"""Alerts and camera events as CloudEvents 1.0 (structured JSON)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pipeline.messages import Alert, CameraEvent, Evidence, Review, ReviewState
from pipeline.outputs.lines import (
    region_box,
    rounded,
    sentence_probability,
    utc_moment,
    utc_text,
)

__all__ = ["decode_review", "encode_alert", "encode_camera_event", "encode_review"]


def encode_alert(alert: Alert) -> dict[str, Any]:
    """One revision of an alert; the store gives ``data.seq`` to one that has none yet.

    ``id`` is ``alert_id:type:revision``, the same whenever the same frames are replayed.
    """
    stamp = alert.stamp
    data = {
        "alert_id": alert.id,
        "revision": alert.revision,
        "camera": stamp.camera,
        "rule": alert.rule,
        "tags": list(alert.tags),
        "severity": alert.severity,
        "caption": alert.caption,
        "probability": rounded(alert.probability),
        "keywords": [_keyword(evidence) for evidence in alert.keywords],
        "evidence": {name: rounded(value) for name, value in alert.evidence.items()},
        "alternatives": [
            {"text": other.text, "probability": sentence_probability(other.log_probability)}
            for other in alert.alternatives
        ],
        "region": region_box(alert.region),
        "frame_sequence": stamp.sequence,
        "frame_time": utc_text(stamp.captured_at),
        "media_time_s": rounded(stamp.position_s),
        "detected_time": utc_text(alert.detected_at),
        "first_seen": utc_text(alert.first_seen),
        "last_seen": utc_text(alert.last_seen),
        "count": alert.count,
        "snapshot": alert.snapshot,
        "clip": alert.clip,
        "model": alert.model,
        "rules_version": alert.rules_version,
    }
    _number(data, alert.seq)
    state = alert.state.value
    event_id = f"{alert.id}:{state}:{alert.revision}"
    return _envelope(event_id, f"watchword.alert.{state}", stamp.camera, stamp.captured_at, data)


def encode_camera_event(event: CameraEvent) -> dict[str, Any]:
    """Encode a camera that came or went; the store gives ``data.seq`` to one without."""
    kind = f"watchword.camera.{event.state.value}"
    since = utc_text(event.since)
    digest = hashlib.sha256(f"{event.camera}\0{kind}\0{since}".encode()).hexdigest()[:20]
    last = None if event.last_frame_at is None else utc_text(event.last_frame_at)
    data = {
        "camera": event.camera,
        "reason": event.reason,
        "since": since,
        "last_frame_time": last,
        "reconnects": event.reconnects,
    }
    _number(data, event.seq)
    return _envelope(f"{digest}:{event.state.value}:1", kind, event.camera, event.since, data)


def encode_review(review: Review) -> dict[str, Any]:
    """Encode what somebody did about an alert."""
    data = {
        "alert_id": review.alert_id,
        "revision": review.revision,
        "camera": review.camera,
        "rule": review.rule,
        "by": review.by,
        "note": review.note,
        "time": utc_text(review.time),
        "until": None if review.until is None else utc_text(review.until),
    }
    state = review.state.value
    event_id = f"{review.alert_id}:{state}:{review.revision}"
    return _envelope(event_id, f"watchword.alert.{state}", review.camera, review.time, data)


def decode_review(kind: str, data: Mapping[str, Any]) -> Review | None:
    """Read a review out of an event's type and data; None for any other event."""
    try:
        state = ReviewState(kind.removeprefix("watchword.alert."))
        return Review(
            alert_id=str(data["alert_id"]),
            revision=int(data["revision"]),
            state=state,
            camera=str(data["camera"]),
            rule=str(data["rule"]),
            time=utc_moment(data["time"]),
            by=str(data["by"]),
            note=str(data["note"]),
            until=None if data["until"] is None else utc_moment(data["until"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _number(data: dict[str, Any], seq: int | None) -> None:
    if seq is not None:
        data["seq"] = seq


def _envelope(
    event_id: str, kind: str, camera: str, time: datetime, data: dict[str, Any]
) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": f"/watchword/cameras/{quote(camera, safe='')}",
        "type": kind,
        "subject": camera,
        "time": utc_text(time),
        "datacontenttype": "application/json",
        "data": data,
    }


def _keyword(evidence: Evidence) -> dict[str, Any]:
    return {
        "term": evidence.keyword,
        "matched": evidence.matched,
        "span": list(evidence.span),
        "probability": rounded(evidence.probability),
        "beams": rounded(evidence.beams),
        "region": region_box(evidence.region),
    }
