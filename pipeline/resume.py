"""Which recordings a run before this one has finished: marks in the store, for ``--resume``.

A recording is the unit: it is finished, with its files written and its alerts recorded, or it is
watched again from its beginning. So a resumed run gives what an unbroken one does without having to
bring every stage back to where it stood (see docs/adr/0022).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.camera_feed import CameraSpec
from pipeline.captioner_messages import Ready
from pipeline.outputs import CameraSummary
from pipeline.outputs.camera import camera_files
from pipeline.outputs.journal import JOURNAL_VERSION
from pipeline.run_setup import Setup
from pipeline.store import Store

_WHOLE = "whole run"

__all__ = ["DoneMark", "DoneMarks", "fingerprint"]


@dataclass(frozen=True, slots=True)
class DoneMark:
    """A finished recording: of what and how, where its frames went, its alerts by rule."""

    fingerprint: str
    books: CameraSummary
    alerts: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Make a JSON object."""
        books = self.books.to_json()
        return {"fingerprint": self.fingerprint, "books": books, "alerts": dict(self.alerts)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DoneMark:
        """Read what :meth:`to_json` made."""
        books = CameraSummary.from_json(data["books"])
        return cls(str(data["fingerprint"]), books, dict(data["alerts"]))


class DoneMarks:
    """The done marks of one run's recordings.

    Args:
        setup: What the run is made of.
        ready: The model that captions.
        store: Where the marks lie.

    """

    def __init__(self, setup: Setup, ready: Ready, store: Store) -> None:
        self._store = store
        self._specs = {spec.name for spec in setup.specs}
        self._output = setup.config.output
        self._fingerprints = {
            spec.name: fingerprint(spec, setup, ready)
            for spec in setup.specs
            if not spec.source.live
        }
        self.done: dict[str, DoneMark] = self._find_done() if self._output.resume else {}
        """What runs before have finished; empty unless the run resumes."""
        self.files: list[Path] = self._find_whole()
        """All files of a run that has come to its end with nothing left to do; else empty."""
        if "report" in self._output.formats and not self.files:
            self.done = {name: mark for name, mark in self.done.items() if self._journal(name)}
        anew = self._fingerprints.keys() - self.done.keys()
        if not self.files:
            store.record(state={_WHOLE: None, **{_name(camera): None for camera in anew}})

    def mark(self, camera: str, books: CameraSummary, alerts: Mapping[str, int]) -> None:
        """Note that a recording is finished: its files are written.

        Raises:
            StoreError: The store cannot be written; a resumed run watches it again.

        """
        known = self._fingerprints.get(camera)
        if known is not None:
            mark = DoneMark(known, books, alerts)
            self._store.record(state={_name(camera): mark.to_json()})

    def mark_whole(self, files: Sequence[Path]) -> None:
        """Note that the run has come to its end, with the report and the summary."""
        mark = {"fingerprint": self._of_all(), "files": [str(path) for path in files]}
        self._store.record(state={_WHOLE: mark})

    def forget(self, cameras: Iterable[str]) -> None:
        """Mark these no more."""
        for camera in cameras:
            self._fingerprints.pop(camera, None)

    def _find_done(self) -> dict[str, DoneMark]:
        found: dict[str, DoneMark] = {}
        for camera, wanted in self._fingerprints.items():
            kept = self._store.state(_name(camera))
            if kept is not None and kept["fingerprint"] == wanted and self._files_are_there(camera):
                found[camera] = DoneMark.from_json(kept)
        return found

    def _files_are_there(self, camera: str) -> bool:
        formats = [each for each in self._output.formats if each != "video"]  # not all have one
        return all(path.exists() for path in camera_files(self._directory, camera, formats))

    def _find_whole(self) -> list[Path]:
        kept = self._store.state(_WHOLE)
        everything = self.done.keys() == self._specs
        if not everything or kept is None or kept["fingerprint"] != self._of_all():
            return []
        files = [Path(name) for name in kept["files"]]
        return files if all(path.exists() for path in files) else []

    def _of_all(self) -> str:
        return hashlib.sha256(json.dumps(self._fingerprints).encode()).hexdigest()

    def _journal(self, camera: str) -> bool:
        return (self._directory / f"{camera}.part").exists()

    @property
    def _directory(self) -> Path:
        return Path(self._output.directory)


def fingerprint(spec: CameraSpec, setup: Setup, ready: Ready) -> str:
    """Name all that a recording's captions, alerts and files depend on, 64 hex digits."""
    config = setup.config
    how = {
        "journal": JOURNAL_VERSION,
        "files": _signatures(Path(spec.source.location)),
        "camera": spec.name,
        "capture": spec.capture.model_dump(mode="json"),
        "start": None if spec.start_time is None else spec.start_time.isoformat(),
        "masks": spec.masks,
        "model": [ready.identity, ready.runtime, config.model.beam_size, config.model.max_words],
        "window": config.model.window_frames,
        "rules": setup.rules.version,
        "groups": _groups_of(spec.name, setup),
        "formats": sorted(config.output.formats),
        "blurred": config.snapshots.blur_faces,
    }
    return hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()


def _groups_of(camera: str, setup: Setup) -> Sequence[str]:
    own = setup.config.cameras.get(camera)
    return () if own is None else sorted(own.groups)


def _signatures(location: Path) -> list[tuple[str, int, int]]:
    """Path, size and time of last change of a recording, or of each picture in a folder."""
    paths = sorted(location.iterdir()) if location.is_dir() else [location]
    found = [(path, path.stat()) for path in paths if path.exists()]
    return [(str(path.absolute()), stat.st_size, stat.st_mtime_ns) for path, stat in found]


def _name(camera: str) -> str:
    return f"done:{camera}"
