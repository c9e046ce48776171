"""Files a run leaves behind, and what it shows on the terminal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from pipeline.messages import Alert, CameraEvent, Caption
from pipeline.outputs.camera import FORMATS, CameraOutput, camera_files
from pipeline.outputs.camera_source import CameraSource, Encoders, Output
from pipeline.outputs.files import OutputError, atomic_text
from pipeline.outputs.gaps import Gaps
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
    "RunSummary",
    "camera_files",
    "write_summary",
]


class OutputSet:
    """The outputs of all cameras of a run; what comes is handed to its camera's.

    A recording's files are written when it is over (:meth:`finish`), the others' and the report
    at the run's end. ``done`` are recordings whose files a run before has written.
    What cannot be written while the run goes (a full disk) is told, counted and passed over:
    only at a camera's end, when its files are made, is it an error.

    Raises:
        OutputError: The directory cannot be written, or two cameras would write the same file.

    """

    def __init__(
        self,
        directory: str | Path,
        cameras: Sequence[CameraSource],
        formats: Sequence[str],
        encoders: Encoders | None = None,
        done: Collection[str] = (),
    ) -> None:
        self.directory = Path(directory)
        self.formats = tuple(formats)
        _refuse_unknown(self.formats)
        self._owners: dict[str, str] = {}
        for camera in cameras:
            self._claim(camera.name)
        self._encoders, self._done = encoders or Encoders(), frozenset(done)
        # Camera events come from the capture thread, captions and alerts from the output stage.
        self._lock = threading.Lock()
        self._gaps = Gaps()
        self._outputs: dict[str, CameraOutput] = {}
        self._over: set[str] = set(done)
        self._written: dict[str, list[Path]] = {}
        for camera in cameras:
            self.add(camera)

    def add(self, camera: CameraSource) -> None:
        """Open the files of one more camera; one that was there before goes on with its files.

        Raises:
            OutputError: Another camera would write the same files, or they cannot be written.

        """
        if camera.name in self._outputs:
            return
        self._claim(camera.name)
        done = camera.name in self._done
        if done:
            self._written[camera.name] = self.files_of(camera.name)
        self._outputs[camera.name] = CameraOutput(
            self.directory, camera, self.formats, self._encoders, done
        )

    def files_of(self, camera: str) -> list[Path]:
        """List the files of a camera that are there."""
        paths = camera_files(self.directory, camera, self.formats)
        return [path for path in paths if path.exists()]

    def caption(self, caption: Caption) -> None:
        """Hand a caption to its camera's files."""
        self._hand(caption.stamp.camera, "captions", lambda output: output.caption(caption))

    def alert(self, alert: Alert) -> None:
        """Hand an alert's revision to its camera's files."""
        self._hand(alert.stamp.camera, "alerts", lambda output: output.alert(alert))

    def picture(self, alert: Alert, jpeg: bytes) -> None:
        """Hand an alert's snapshot to its camera's files."""
        camera = alert.stamp.camera
        self._hand(camera, "pictures", lambda output: output.picture(alert, jpeg))

    def camera_event(self, event: CameraEvent) -> None:
        """Hand a camera's coming or going to its files."""
        self._hand(event.camera, "camera events", lambda output: output.camera_event(event))

    @property
    def problem(self) -> str | None:
        """Why what comes now is not written to the files, or None; any thread may ask."""
        return self._gaps.problem

    def missing(self) -> dict[tuple[str, str, str], int]:
        """Count what the files lack, by camera, what it is, and reason; any thread may ask."""
        with self._lock:
            return dict(self._gaps.counts)

    def lacks(self, camera: str) -> bool:
        """Whether the files of a camera lack something that could not be written."""
        with self._lock:
            return self._gaps.of(camera)

    def missing_told(self) -> str | None:
        """Say in a sentence what the files lack; None where that is nothing."""
        with self._lock:
            return self._gaps.told()

    def finish(self, camera: str) -> dict[str, int]:
        """Write the files of a recording that is over; what still comes of it is passed over.

        Its journal stays until :meth:`drop_journal`.

        Returns:
            Its alerts by rule.

        Raises:
            OutputError: A file cannot be written; :meth:`close` tries again.

        """
        with self._lock:
            self._over.add(camera)
        output = self._outputs[camera]
        self._written[camera] = output.write()
        output.release()
        return output.alerts_by_rule()

    def drop_journal(self, camera: str) -> None:
        """Remove a finished recording's journal, unless the report is still to be made of it."""
        if "report" not in self.formats:
            self._outputs[camera].discard()

    def close(
        self, complete: bool | Mapping[str, bool] = True, unread: Collection[str] = ()
    ) -> list[Path]:
        """Write all files, then drop the journals: :meth:`write` and :meth:`clear_up`."""
        written = self.write(complete, unread)
        self.clear_up(complete, unread)
        return written

    def write(
        self, complete: bool | Mapping[str, bool] = True, unread: Collection[str] = ()
    ) -> list[Path]:
        """Write all files not yet written; every journal stays.

        Args:
            complete: For all cameras, or by camera: whether it is one read to its end.
            unread: Cameras that gave nothing; they get no file.

        Raises:
            OutputError: A file cannot be written.

        """
        whole, written = self._whole(complete), []
        for name, output in self._outputs.items():
            if name in self._written:
                written.extend(self._written[name])
            elif name not in unread:
                written.extend(output.write(whole[name]))
        written.extend(self._write_report(unread))
        return written

    def clear_up(
        self, complete: bool | Mapping[str, bool] = True, unread: Collection[str] = ()
    ) -> None:
        """Drop the journals of what is complete, and of what is ``unread``.

        The report of a run that goes on with this one is made of all journals: where there is one
        to be made and not all is complete, all stay.
        """
        whole = self._whole(complete)
        kept_for_report = "report" in self.formats and not all(whole.values())
        for name, output in self._outputs.items():
            if name in unread or (whole[name] and not kept_for_report):
                output.discard()
            else:
                output.release()

    def _whole(self, complete: bool | Mapping[str, bool]) -> dict[str, bool]:
        if isinstance(complete, bool):
            return dict.fromkeys(self._outputs, complete)
        return {name: complete.get(name, False) for name in self._outputs}

    def _write_report(self, unread: Collection[str]) -> list[Path]:
        if "report" not in self.formats:
            return []
        read = [output for name, output in self._outputs.items() if name not in unread]
        reports = [output.report() for output in read]
        written = write_report(self.directory, reports)
        for output, report in zip(read, reports, strict=True):
            written.extend(output.write_sheets(report))
        return written

    def _hand(self, camera: str, what: str, hand: Callable[[CameraOutput], bool]) -> None:
        with self._lock:
            output = self._open(camera)
            if output is None:
                return
            try:
                written = hand(output)
            except OutputError as error:
                self._gaps.lost(camera, what, error)
            else:
                if written:
                    self._gaps.written()

    def _open(self, camera: str) -> CameraOutput | None:
        return None if camera in self._over else self._outputs[camera]

    def _claim(self, camera: str) -> None:
        paths = camera_files(self.directory, camera, self.formats)
        for path in [*paths, self.directory / f"{camera}.part"]:
            other = self._owners.setdefault(str(path).casefold(), camera)
            if other != camera:
                raise OutputError(
                    f"cameras {other} and {camera} would both write {path}; "
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
