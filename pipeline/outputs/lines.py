"""Captions and camera events as plain JSON objects, and JSON objects as lines.

One form for the JSONL files, the Pub/Sub channel and ``run --json``.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, TypeVar

from pipeline.messages import Alert, CameraEvent, Caption, Region

__all__ = [
    "alert_line",
    "blank_controls",
    "camera_event_line",
    "caption_line",
    "printable",
    "region_box",
    "rounded",
    "sentence_probability",
    "to_json_line",
    "utc_moment",
    "utc_text",
]

ValueT = TypeVar("ValueT")

_DIGITS = 6
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


def caption_line(caption: Caption) -> dict[str, Any]:
    """Turn a caption into a JSON object: keys always in the same order, probabilities 0..1."""
    stamp = caption.stamp
    line = {
        "type": "caption",
        "camera": stamp.camera,
        "sequence": stamp.sequence,
        "time": utc_text(stamp.captured_at),
        "media_time_s": rounded(stamp.position_s),
        "text": caption.text,
        "probability": sentence_probability(caption.log_probability),
        "words": [
            {"text": word.text, "probability": rounded(word.probability)} for word in caption.words
        ],
        "alternatives": [
            {"text": other.text, "probability": sentence_probability(other.log_probability)}
            for other in caption.alternatives
        ],
        "model": caption.model,
    }
    if caption.concepts:
        line["concepts"] = {
            word: {"probability": rounded(found.probability), "region": region_box(found.region)}
            for word, found in caption.concepts.items()
        }
    if caption.scores:
        line["scores"] = {text: rounded(nats) for text, nats in caption.scores.items()}
    return line


def alert_line(alert: Alert) -> dict[str, Any]:
    """Make a short JSON object of an alert: what the report and the subtitles need.

    It is not the published event: that is a CloudEvent and comes from the alerts' own codec.
    """
    return {
        "alert_id": alert.id,
        "revision": alert.revision,
        "state": alert.state.value,
        "camera": alert.stamp.camera,
        "rule": alert.rule,
        "severity": alert.severity,
        "caption": alert.caption,
        "probability": rounded(alert.probability),
        "keywords": [
            {"term": found.keyword, "matched": found.matched, "span": list(found.span)}
            for found in alert.keywords
        ],
        "region": region_box(alert.region),
        "time": utc_text(alert.stamp.captured_at),
        "first_seen": utc_text(alert.first_seen),
        "last_seen": utc_text(alert.last_seen),
        "count": alert.count,
    }


def camera_event_line(event: CameraEvent) -> dict[str, Any]:
    """Make a JSON object of a camera's coming or going, for lack of an event encoder."""
    last = event.last_frame_at
    return {
        "type": f"watchword.camera.{event.state.value}",
        "camera": event.camera,
        "reason": event.reason,
        "since": utc_text(event.since),
        "last_frame_time": None if last is None else utc_text(last),
        "reconnects": event.reconnects,
    }


def to_json_line(record: Mapping[str, Any]) -> str:
    """One line of JSON, newline included; lone surrogates are escaped, so any text can be kept."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(record, allow_nan=False, separators=(", ", ": "))
    # U+2028 and the like are legal in JSON, but many readers take them for the end of a line.
    for mark in ("\u2028", "\u2029", "\x85"):
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text + "\n"


def printable(text: str) -> str:
    """Put the text on one line, with no control character a terminal or player could obey."""
    return " ".join(blank_controls(text).split())


def blank_controls(text: str) -> str:
    """Put a blank for each control character; the length stays."""
    return "".join(" " if unicodedata.category(char) in _UNPRINTABLE else char for char in text)


def utc_text(moment: datetime) -> str:
    """Write a time as RFC 3339 in UTC with microseconds.

    Raises:
        ValueError: The datetime is naive.

    """
    if moment.tzinfo is None:
        raise ValueError("a time without a zone cannot be written")
    return moment.astimezone(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


def utc_moment(text: str) -> datetime:
    """Read what :func:`utc_text` wrote.

    Raises:
        ValueError: It is no such time.

    """
    return datetime.fromisoformat(text.replace("Z", "+00:00"))  # Python 3.10 knows no Z


def rounded(value: ValueT) -> ValueT:
    """Round a number that is written out: digits past the sixth differ from run to run."""
    return round(value, _DIGITS) if isinstance(value, float) else value  # type: ignore[return-value]


def sentence_probability(log_probability: float) -> float:
    """Make a probability of nats, to six significant digits.

    That of a whole sentence is the product of its words' and is often below a millionth: rounded
    like other numbers it would be 0, and a replay could not tell one beam from another.
    """
    if math.isnan(log_probability):
        return 0.0
    return float(f"{math.exp(min(0.0, log_probability)):.{_DIGITS}g}")


def region_box(box: Region | None) -> dict[str, float] | None:
    """Make a JSON object of a place in the picture."""
    if box is None:
        return None
    return {"x": box.x, "y": box.y, "width": box.width, "height": box.height}
