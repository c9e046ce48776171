"""Sinks beside the files: JSON lines on stdout, and captions to whoever listens on Pub/Sub."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from pipeline.alerts import RedisSink, encode_alert, encode_camera_event
from pipeline.messages import Alert, CameraEvent, Caption
from pipeline.outputs.lines import caption_line, to_json_line

__all__ = ["CaptionChannel", "Printer"]


class Printer:
    """View for ``run --json``: one JSON object a line on stdout."""

    def give_up(self) -> bool:
        """Print nothing more: a script that has stopped reading must not keep the run for ever."""
        # Whoever is stuck in stdout holds its lock, and the end of the program would wait for it.
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - to the very end
        return True

    def caption(self, caption: Caption) -> None:
        """Print a caption line."""
        self.line(caption_line(caption))

    def alert(self, alert: Alert) -> None:
        """Print an alert's CloudEvent."""
        self.line(encode_alert(alert))

    def camera_event(self, event: CameraEvent) -> None:
        """Print a camera event's CloudEvent."""
        self.line(encode_camera_event(event))

    def progress(self, camera: str, position_s: float, duration_s: float | None = None) -> None:
        """Nothing: a script counts captions."""

    def ended(self, camera: str) -> None:
        """Nothing: its files are named in the summary."""

    def message(self, text: str) -> None:
        """Say it on stderr; stdout is for data."""
        sys.stderr.write(f"watchword: {text}\n")

    def line(self, record: dict[str, Any]) -> None:
        """Print one object at once, so that a reader of the pipe sees it live."""
        sys.stdout.write(to_json_line(record))
        sys.stdout.flush()


class CaptionChannel:
    """Sink: captions to the cameras' Pub/Sub channels; alerts go through the outbox instead."""

    def __init__(self, redis: RedisSink) -> None:
        self._redis = redis

    def caption(self, caption: Caption) -> None:
        """Publish a caption line; best effort."""
        self._redis.publish_caption(
            caption.stamp.camera, json.dumps(caption_line(caption), ensure_ascii=False)
        )

    def alert(self, alert: Alert) -> None:
        """Nothing: the outbox has it."""
