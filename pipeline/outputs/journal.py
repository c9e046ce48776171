"""The journal of one camera: everything its output files are made from, one JSON object a line.

It is appended to while the run goes, as ``NAME.part``, and each line reaches the operating
system before the call returns, so a kill loses at most a torn last line. The files that people
read are made from it at the end. ``--resume`` opens it again and goes on.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.outputs.files import OutputError, explained
from pipeline.outputs.lines import to_json_line

__all__ = ["Journal", "ResumeMark", "read_journal"]

_VERSION = 1


@dataclass(frozen=True, slots=True)
class ResumeMark:
    """How far a camera got: the last caption's frame number and media time in seconds."""

    sequence: int
    media_time_s: float | None


@dataclass
class Journal:
    """An append-only file of records; opens a new one, or goes on with one left by a kill.

    ``fingerprint`` says what is being captioned and how (source, size, model, settings). A
    journal with another fingerprint is not gone on with.

    Raises:
        OutputError: The file cannot be written.

    """

    path: Path
    camera: str
    fingerprint: str = ""
    resume: bool = False
    mark: ResumeMark | None = field(default=None, init=False)
    _seen_events: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        goes_on = self.resume and self._recover()
        with explained(self.path):
            self._file = self.path.open("ab" if goes_on else "wb", buffering=0)
        if not goes_on:
            head = {"kind": "head", "version": _VERSION, "camera": self.camera}
            self._append({**head, "fingerprint": self.fingerprint})

    def caption(self, at_s: float, line: Mapping[str, Any]) -> bool:
        """Add a caption at ``at_s`` seconds; False when a run before this one had it already."""
        sequence = int(line["sequence"])
        if self.mark is not None and sequence <= self.mark.sequence:
            return False
        self._append({"kind": "caption", "at_s": round(at_s, 6), "line": line})
        self.mark = ResumeMark(sequence, line["media_time_s"])
        return True

    def event(self, key: str, record: Mapping[str, Any]) -> bool:
        """Add an alert or camera event; False when one with the same ``key`` is there."""
        if key in self._seen_events:
            return False
        self._append({"key": key, **record})
        self._seen_events.add(key)
        return True

    def close(self) -> None:
        """Close the file; the journal stays on the disk."""
        self._file.close()

    def discard(self) -> None:
        """Close and remove: the files made from it are whole."""
        self.close()
        with explained(self.path):
            self.path.unlink(missing_ok=True)

    def _append(self, record: Mapping[str, Any]) -> None:
        line = to_json_line(record).encode("utf-8")
        with explained(self.path):
            start = self._file.seek(0, os.SEEK_END)
            written = self._file.write(line)
            if written != len(line):  # a disk that is nearly full takes a part of the line
                self._file.truncate(start)
                raise OSError(errno.ENOSPC, "only a part of a line could be written")

    def _recover(self) -> bool:
        """Read what a run before left, cut a torn last line off; False when there is no use."""
        if not self.path.exists():
            return False
        kept = 0
        for record, end in _records(self.path):
            if kept == 0 and not self._is_ours(record):
                return False
            kept = end
            if record["kind"] == "caption":
                line = record["line"]
                self.mark = ResumeMark(int(line["sequence"]), line["media_time_s"])
            elif "key" in record:
                self._seen_events.add(str(record["key"]))
        with explained(self.path):
            os.truncate(self.path, kept)
        return kept > 0

    def _is_ours(self, head: Mapping[str, Any]) -> bool:
        return (
            head.get("kind") == "head"
            and head.get("version") == _VERSION
            and head.get("camera") == self.camera
            and head.get("fingerprint") == self.fingerprint
        )


def read_journal(path: Path, kind: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield records in order, of one kind or all; a torn last line is left out.

    Raises:
        OutputError: The journal cannot be read.

    """
    for record, _ in _records(path):
        if kind is None or record["kind"] == kind:
            yield record


def _records(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Each whole record with the offset of the byte after it."""
    end = 0
    try:
        with path.open("rb") as file:
            for line in file:
                end += len(line)
                record = _parsed(line)
                if record is None:
                    return
                yield record, end
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
