"""The output files of one camera: journalled while it runs, written whole at its end."""

from __future__ import annotations

import base64
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.messages import Alert, CameraEvent, Caption, FrameStamp
from pipeline.outputs.annotated_video import boxes_of, write_video
from pipeline.outputs.camera_report import CameraReport
from pipeline.outputs.camera_source import CameraSource, Encoders
from pipeline.outputs.coco import to_coco
from pipeline.outputs.contact_sheets import sheet_names, write_sheets
from pipeline.outputs.cues import Cue, alert_cues, caption_cues
from pipeline.outputs.files import OutputError, atomic_text, make_directory
from pipeline.outputs.journal import Journal, read_journal
from pipeline.outputs.lines import (
    alert_line,
    caption_line,
    to_json_line,
    utc_moment,
)
from pipeline.outputs.subtitles import to_srt, to_webvtt
from pipeline.outputs.thumbnails import thumbnails

__all__ = ["FORMATS", "CameraOutput", "camera_files"]

log = logging.getLogger(__name__)

_SUFFIXES: dict[str, tuple[str, ...]] = {
    "vtt": (".vtt",),
    "srt": (".srt",),
    "jsonl": (".jsonl", ".events.jsonl"),
    "coco": (".coco.json",),
    "video": (".mp4",),
}
FORMATS = (*_SUFFIXES, "report")
"""``report`` is one for the whole run; the others are files of each camera."""


def camera_files(directory: Path, camera: str, formats: Sequence[str]) -> list[Path]:
    """List the files that a camera gets in these formats."""
    return [directory / (camera + end) for form in formats for end in _SUFFIXES.get(form, ())]


@dataclass
class CameraOutput:
    """All output files of one camera; ``done`` is one whose files a run before has written.

    Raises:
        OutputError: The directory cannot be written, or a file would overwrite the recording.

    """

    directory: Path
    source: CameraSource
    formats: Sequence[str]
    encoders: Encoders = field(default_factory=Encoders)
    done: bool = False

    def __post_init__(self) -> None:
        make_directory(self.directory)
        if "video" in self.formats and self._pictured is None:
            why = "faces are to be blurred" if self.source.file else "it is no recording"
            log.warning("no video is made of %s: %s", self.source.name, why)
        self._refuse_overwriting()
        self._started_ns = self.source.started_monotonic_ns
        path = self.directory / f"{self.source.name}.part"
        self._journal = Journal(path, self.source.name, keep=self.done)

    @property
    def journal_path(self) -> Path:
        """Where the journal lies until :meth:`discard`."""
        return self._journal.path

    def caption(self, caption: Caption) -> bool:
        """Journal a caption; False for one that is there already: it is passed over."""
        return self._journal.caption(self._at_s(caption.stamp), caption_line(caption))

    def alert(self, alert: Alert) -> bool:
        """Journal one revision of an alert; False for a repeated one: it is passed over."""
        record = {
            "kind": "alert",
            "at_s": round(self._at_s(alert.stamp), 6),
            "alert": alert_line(alert),
            "line": self.encoders.alert(alert),
        }
        return self._journal.event(f"{alert.id}:{alert.state.value}:{alert.revision}", record)

    def picture(self, alert: Alert, jpeg: bytes) -> bool:
        """Journal an alert's snapshot, where a file is to show it; else return False."""
        if "report" not in self.formats:
            return False
        text = base64.b64encode(jpeg).decode("ascii")
        record = {"kind": "picture", "alert_id": alert.id, "jpeg": text}
        return self._journal.event(f"{alert.id}:picture", record)

    def camera_event(self, event: CameraEvent) -> bool:
        """Journal a camera's coming or going; False for one that is there already."""
        key = f"{event.camera}:{event.state.value}:{event.since.isoformat()}"
        record = {"kind": "camera", "line": self.encoders.camera_event(event)}
        return self._journal.event(key, record)

    def close(self, complete: bool) -> list[Path]:
        """Write the files; the journal goes when ``complete``, else stays for whoever looks."""
        written = self.write(complete)
        if complete:
            self.discard()
        else:
            self.release()
        return written

    def write(self, complete: bool = True) -> list[Path]:
        """Make every file from the journal, each whole or not at all.

        Of a recording that is not ``complete`` no video is made: it would take long, and
        whoever stopped the run does not wait for it.

        Raises:
            OutputError: One cannot be written; the journal stays.

        """
        self._journal.begin()
        written: list[Path] = []
        for form in self.formats:
            for path in camera_files(self.directory, self.source.name, [form]):
                if form != "video":
                    self._write(form, path)
                    written.append(path)
                elif complete and self._write_video(path):
                    written.append(path)
        return written

    def _write_video(self, path: Path) -> bool:
        recording, boxes = self._pictured, boxes_of(self._records("alert"))
        if recording is None:
            return False
        return write_video(path, recording, self.source.masks, self.cues(), boxes)

    def discard(self) -> None:
        """Remove the journal."""
        self._journal.discard()

    def release(self) -> None:
        """Close the journal and leave it where it is."""
        self._journal.close()

    def alerts_by_rule(self) -> dict[str, int]:
        """Count the alerts that started."""
        alerts = (record["alert"] for record in self._records("alert"))
        return dict(Counter(each["rule"] for each in alerts if each["state"] == "started"))

    def cues(self) -> list[Cue]:
        """Captions merged, and alerts, as cues."""
        return caption_cues(self._captions()) + alert_cues(self._records("alert"))

    def report(self) -> CameraReport:
        """What the run's report tells of this camera, with pictures where it is a recording."""
        name, file = self.source.name, self._pictured
        report = CameraReport.of_cues(name, self.cues(), self._media_zero(), self.source.file)
        report = replace(report, snapshots=self._snapshots())
        report = replace(report, sheets=sheet_names(report, file))
        if file is None:
            return report
        return replace(report, pictures=thumbnails(file, report.picture_times(), self.source.masks))

    def _media_zero(self) -> datetime | None:
        """The time, in the camera's zone, at which the cues' clock shows zero.

        None without a caption.
        """
        first = next(self._records("caption"), None)
        if first is None:
            return None
        moment = utc_moment(first["line"]["time"])
        return (moment - timedelta(seconds=first["at_s"])).astimezone(self.source.zone)

    def write_sheets(self, report: CameraReport) -> list[Path]:
        """Write the contact sheets that ``report`` names.

        Raises:
            OutputError: One cannot be written.

        """
        return write_sheets(self.directory, report, self._pictured, self.source.masks)

    @property
    def _pictured(self) -> Path | None:
        """The recording that pictures may be taken from."""
        return self.source.file if self.source.pictures else None

    def _snapshots(self) -> dict[str, bytes]:
        records = self._records("picture")
        return {each["alert_id"]: base64.b64decode(each["jpeg"]) for each in records}

    def _captions(self) -> Iterator[tuple[float, str]]:
        return ((record["at_s"], record["line"]["text"]) for record in self._records("caption"))

    def _records(self, kind: str) -> Iterator[dict[str, Any]]:
        return read_journal(self._journal.path, kind)

    def _events(self) -> Iterable[Mapping[str, Any]]:
        """Alert and camera events as they came; a recording's in the order of their times.

        A recording's two kinds come over two threads, and which one is first says nothing.
        """
        records = read_journal(self._journal.path)
        found: Iterable[dict[str, Any]] = (
            each for each in records if each["kind"] in {"alert", "camera"}
        )
        if self.source.file is not None:
            found = sorted(found, key=lambda each: (_time(each["line"]), each["kind"]))
        return (each["line"] for each in found)

    def _write(self, form: str, path: Path) -> None:
        if form == "vtt":
            _write_text(path, [to_webvtt(self.cues())])
        elif form == "srt":
            _write_text(path, [to_srt(self.cues())])
        elif path.name.endswith(".events.jsonl"):
            _write_text(path, map(to_json_line, self._events()))
        elif form == "jsonl":
            _write_text(path, (to_json_line(each["line"]) for each in self._records("caption")))
        else:
            _write_text(path, to_coco(self._records("caption")))

    def _at_s(self, stamp: FrameStamp) -> float:
        """Media time of a recording; for a live camera the time since the run's start."""
        if stamp.position_s is not None:
            return stamp.position_s
        if self._started_ns is None:
            self._started_ns = stamp.captured_monotonic_ns
        return max(0.0, (stamp.captured_monotonic_ns - self._started_ns) / 1e9)

    def _refuse_overwriting(self) -> None:
        recording = self.source.file
        if recording is None or not recording.exists():
            return
        for path in camera_files(self.directory, self.source.name, self.formats):
            if path.exists() and path.samefile(recording):
                raise OutputError(
                    f"{path} is the recording itself and would be overwritten; "
                    "choose another --output directory"
                )


def _time(line: Mapping[str, Any]) -> str:
    return str(line.get("time") or line.get("since"))


def _write_text(path: Path, parts: Iterable[str]) -> None:
    with atomic_text(path) as file:
        file.writelines(parts)
