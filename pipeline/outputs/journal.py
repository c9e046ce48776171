"""The journal of one camera: everything its output files are made from, one JSON object a line.

It is appended to while the run goes, as ``NAME.part``, and each line reaches the operating
system before the call returns, so a kill loses at most a torn last line. The files that people
read are made from it at the camera's end.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from pipeline.outputs.files import OutputError, explained
from pipeline.outputs.lines import to_json_line

__all__ = ["JOURNAL_VERSION", "Journal", "read_journal"]

JOURNAL_VERSION = 1
_REMEMBERED_EVENTS = 1000
"""A grabber that begins again repeats what came of its last frames, never more than this."""


@dataclass
class Journal:
    """An append-only file of records. It is made with the first of them, or by :meth:`begin`.

    What a run before left under its name goes, unless ``keep``: then it is only to be read.

    Raises:
        OutputError: What is there cannot be removed.

    """

    path: Path
    camera: str
    keep: bool = False
    _last_sequence: int = field(default=-1, init=False)
    _seen_events: dict[str, None] = field(default_factory=dict, init=False)  # oldest first
    _file: FileIO | None = field(default=None, init=False)
    _whole_bytes: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not self.keep:
            with explained(self.path):
                self.path.unlink(missing_ok=True)

    def begin(self) -> None:
        """See that the file is there, so that it can be read. Idempotent.

        Raises:
            OutputError: It cannot be written.

        """
        if self._file is None and not self.keep:
            with explained(self.path):
                self._file = FileIO(self.path, "w")
        if self._whole_bytes == 0 and not self.keep:  # also where there was no room for it before
            self._write({"kind": "head", "version": JOURNAL_VERSION, "camera": self.camera})

    def caption(self, at_s: float, line: Mapping[str, Any]) -> bool:
        """Add a caption at ``at_s`` seconds; False for one that is there: a grabber began again."""
        sequence = int(line["sequence"])
        if sequence <= self._last_sequence:
            return False
        self._append({"kind": "caption", "at_s": round(at_s, 6), "line": line})
        self._last_sequence = sequence
        return True

    def event(self, key: str, record: Mapping[str, Any]) -> bool:
        """Add an alert or camera event; False when one of the last has the same ``key``."""
        if key in self._seen_events:
            return False
        self._append({"key": key, **record})
        self._seen_events[key] = None
        if len(self._seen_events) > _REMEMBERED_EVENTS:
            del self._seen_events[next(iter(self._seen_events))]
        return True

    def close(self) -> None:
        """Close the file for good; the journal stays on the disk."""
        if self._file is not None:
            self._file.close()
            self._seen_events.clear()

    def discard(self) -> None:
        """Close and remove: the files made from it are whole."""
        self.close()
        with explained(self.path):
            self.path.unlink(missing_ok=True)

    def _append(self, record: Mapping[str, Any]) -> None:
        self.begin()
        self._write(record)

    def _write(self, record: Mapping[str, Any]) -> None:
        """Add a line behind the last whole one: a torn one would hide all that follow it."""
        assert self._file is not None, "a journal that is kept is not written"
        line = to_json_line(record).encode("utf-8")
        with explained(self.path):
            if self._file.seek(0, os.SEEK_END) > self._whole_bytes:
                self._file.truncate(self._whole_bytes)
                self._file.seek(self._whole_bytes)
            written = self._file.write(line)
            if written != len(line):  # a disk that is nearly full takes a part of the line
                self._file.truncate(self._whole_bytes)
                raise OSError(errno.ENOSPC, "only a part of a line could be written")
            self._whole_bytes += written


def read_journal(path: Path, kind: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield records in order, of one kind or all; a torn last line is left out.

    Raises:
        OutputError: The journal cannot be read.

    """
    try:
        with path.open("rb") as file:
            for line in file:
                record = _parsed(line)
                if record is None:
                    return
                if kind is None or record["kind"] == kind:
                    yield record
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from error


def _parsed(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "kind" in record else None
