"""Files a run leaves behind, and what it shows on the terminal."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pipeline.messages import Alert, CameraEvent, Caption
from pipeline.outputs.camera import FORMATS, CameraOutput, camera_files
from pipeline.outputs.camera_source import CameraSource, Encoders, Output
from pipeline.outputs.files import OutputError, atomic_text
from pipeline.outputs.journal import ResumeMark
from pipeline.outputs.lines import to_json_line
from pipeline.outputs.report import write_report
from pipeline.outputs.summary import CameraSummary, RunSummary

__all__ = [
    "FORMATS",
    "CameraOutput",
    "CameraSource",
    "CameraSummary",
    "Encoders",
    "Output",
    "OutputError",
    "OutputSet",
    "ResumeMark",
    "RunSummary",
    "camera_files",
    "open_outputs",
    "write_summary",
]


def open_outputs(
    directory: str | Path,
    camera: CameraSource,
    formats: Sequence[str],
    encoders: Encoders | None = None,
    resume: bool = False,
) -> list[Output]:
    """Open one camera's outputs.

    Raises:
        OutputError: The directory cannot be written.

    """
    _refuse_unknown(formats)
    encoders = encoders or Encoders()
    return [CameraOutput(Path(directory), camera, tuple(formats), encoders, resume)]


class OutputSet:
    """The outputs of all cameras of a run; what comes is handed to its camera's.

    Raises:
        OutputError: The directory cannot be written, or two cameras would write the same file.

    """

    def __init__(
        self,
        directory: str | Path,
        cameras: Sequence[CameraSource],
        formats: Sequence[str],
        encoders: Encoders | None = None,
        resume: bool = False,
    ) -> None:
        self.directory = Path(directory)
        self.formats = tuple(formats)
        _refuse_unknown(self.formats)
        self._refuse_collisions(cameras)
        self._encoders, self._resume = encoders or Encoders(), resume
        self._cameras: list[CameraSource] = []
        # Camera events come from the capture thread, captions and alerts from the output stage.
        self._lock = threading.Lock()
        self._outputs: dict[str, CameraOutput] = {}
        for camera in cameras:
            self.add(camera)

    def add(self, camera: CameraSource) -> None:
        """Open the files of one more camera; one that was there before goes on with its files.

        Raises:
            OutputError: Another camera would write the same files, or they cannot be written.

        """
        if camera.name in self._outputs:
            return
        self._refuse_collisions([*self._cameras, camera])
        self._outputs[camera.name] = CameraOutput(
            self.directory, camera, self.formats, self._encoders, self._resume
        )
        self._cameras.append(camera)

    def resume_mark(self, camera: str) -> ResumeMark | None:
        """How far a run before got with this camera; None when it begins anew."""
        return self._outputs[camera].mark

    def caption(self, caption: Caption) -> None:
        """Hand a caption to its camera's files."""
        with self._lock:
            self._outputs[caption.stamp.camera].caption(caption)

    def alert(self, alert: Alert) -> None:
        """Hand an alert's revision to its camera's files."""
        with self._lock:
            self._outputs[alert.stamp.camera].alert(alert)

    def picture(self, alert: Alert, jpeg: bytes) -> None:
        """Hand an alert's snapshot to its camera's files."""
        with self._lock:
            self._outputs[alert.stamp.camera].picture(alert, jpeg)

    def camera_event(self, event: CameraEvent) -> None:
        """Hand a camera's coming or going to its files."""
        with self._lock:
            self._outputs[event.camera].camera_event(event)

    def close(
        self, complete: bool | Mapping[str, bool] = True, unread: Collection[str] = ()
    ) -> list[Path]:
        """Write all files, then drop the journals of the cameras that are complete.

        Args:
            complete: For all cameras, or by camera: False keeps the journal for ``--resume``.
            unread: Cameras that gave nothing; they get no file and leave no journal.

        Raises:
            OutputError: A file cannot be written; every journal stays.

        """
        written: list[Path] = []
        whole = {
            name: complete if isinstance(complete, bool) else complete.get(name, False)
            for name in self._outputs
        }
        for name, output in self._outputs.items():
            if name not in unread:
                written.extend(output.write(whole[name]))
        written.extend(self._write_report(unread))
        for name, output in self._outputs.items():
            if whole[name] or name in unread:
                output.discard()
            else:
                output.release()
        return written

    def _write_report(self, unread: Collection[str]) -> list[Path]:
        if "report" not in self.formats:
            return []
        read = [output for name, output in self._outputs.items() if name not in unread]
        reports = [output.report() for output in read]
        written = write_report(self.directory, reports)
        for output, report in zip(read, reports, strict=True):
            written.extend(output.write_sheets(report))
        return written

    def _refuse_collisions(self, cameras: Sequence[CameraSource]) -> None:
        owners: dict[str, str] = {}
        for camera in cameras:
            paths = camera_files(self.directory, camera.name, self.formats)
            for path in [*paths, self.directory / f"{camera.name}.part"]:
                other = owners.setdefault(str(path).casefold(), camera.name)
                if other != camera.name:
                    raise OutputError(
                        f"cameras {other} and {camera.name} would both write {path}; "
                        "give one of them another NAME="
                    )


def _refuse_unknown(formats: Sequence[str]) -> None:
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown:
        raise OutputError(
            f"format {', '.join(unknown)} cannot be written; choose from {', '.join(FORMATS)}"
        )


def write_summary(directory: str | Path, summary: RunSummary) -> Path:
    """Write ``summary.json``.

    Raises:
        OutputError: It cannot be written.

    """
    path = Path(directory) / "summary.json"
    with atomic_text(path) as file:
        file.write(to_json_line(summary.to_json()))
    return path
