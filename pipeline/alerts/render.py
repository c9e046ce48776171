"""An event as one line of text."""

from __future__ import annotations

import json
from typing import Any

from pipeline.alerts.subscriber import Event
from pipeline.outputs.lines import printable

__all__ = ["event_line"]


def event_line(event: Event, as_json: bool = False) -> str:
    """Return the event as JSON, or as time, type, camera and what happened."""
    if as_json:
        return json.dumps(event.envelope, ensure_ascii=False)
    kind = event.type.removeprefix("watchword.")
    data = event.data
    severity = f" [{data['severity']}]" if "severity" in data else ""
    rule = f"{severity} {event.rule}" if event.rule else ""
    return printable(f"{event.time}  {kind}  {event.camera}{rule}: {_what(data)}")


def _what(data: dict[str, Any]) -> str:
    if "by" in data:  # somebody answered an alert
        until = f" until {data['until']}" if data.get("until") else ""
        note = f": {data['note']}" if data["note"] else ""
        return f"{data['alert_id']} by {data['by']}{until}{note}"
    return str(data.get("caption") or data.get("reason") or "")
