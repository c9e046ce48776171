"""An event as one line of text."""

from __future__ import annotations

import json

from pipeline.alerts.subscriber import Event
from pipeline.outputs.lines import printable

__all__ = ["event_line"]


def event_line(event: Event, as_json: bool = False) -> str:
    """Return the event as JSON, or as time, type, camera and what happened."""
    if as_json:
        return json.dumps(
            {"id": event.id, "type": event.type, "time": event.time, "data": event.data},
            ensure_ascii=False,
        )
    kind = event.type.removeprefix("watchword.")
    what = event.data.get("caption") or event.data.get("reason") or ""
    rule = f" [{event.data['severity']}] {event.rule}" if event.rule else ""
    return printable(f"{event.time}  {kind}  {event.camera}{rule}: {what}")
