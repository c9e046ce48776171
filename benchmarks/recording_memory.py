"""Whether memory stays flat over a recording of hours.

    python -m benchmarks.recording_memory [--minutes 180] [--videos FOLDER]

ffmpeg makes a recording of the folder's clips (640 x 360, H.264, 25 frames a second), each in turn
and then again. The program watches it with default settings and all outputs but the annotated
video; meanwhile the proportional memory (PSS) of all its processes is read from ``/proc``. Printed
are ten moments, evenly spaced, the growth an hour of recording after the first tenth (least
squares, with the bound of two standard errors), and the most while the files were written. Linux
only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.long_recording import VIDEOS, long_recording
from benchmarks.measure import environment
from benchmarks.processes import memory_kib, processes, slope
from benchmarks.program import RUN_STREAM

_SIZE = (640, 360)
_EVERY_S = 1.0
_FORMATS = "vtt,srt,jsonl,coco,report"
_ROWS = 10
_KINDS = ("main", "captioner", "grabber")


@dataclass(frozen=True)
class Sample:
    """The program at one moment: captions so far, and PSS in MiB by kind of process."""

    at_s: float
    captions: int
    mib: Mapping[str, float]

    @property
    def total_mib(self) -> float:
        """All processes together."""
        return sum(self.mib.values())


def main() -> int:
    """Print the table, and one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=180.0, help="length of the recording")
    parser.add_argument("--videos", type=Path, default=VIDEOS, help="a folder of clips")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = sorted(options.videos.glob("*.mp4"))
        recording = long_recording(folder, clips, options.minutes * 60, _SIZE)
        reading, writing = watched(recording, folder)
    print_growth(reading, writing, options.minutes)
    return 0


def watched(recording: Path, folder: Path) -> tuple[list[Sample], list[Sample]]:
    """Run the program; samples from its first caption to its last, and after that."""
    output = folder / "out"
    place = ["--output", str(output), "--format", _FORMATS, "--quiet"]
    command = [sys.executable, str(RUN_STREAM), "run", f"long={recording}", *place]
    samples: list[Sample] = []
    with (folder / "stderr").open("w") as said:
        begun_s = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        journal = CaptionCount(output / "long.part")
        while process.poll() is None:
            samples.append(sample(process.pid, time.monotonic() - begun_s, journal.read()))
            time.sleep(_EVERY_S)
    if process.returncode != 0:
        raise SystemExit((folder / "stderr").read_text())
    summary = json.loads((output / "summary.json").read_text())
    last = summary["total"]["windows"]["captioned"]
    reading = [one for one in samples if 0 < one.captions < last]
    return reading, [one for one in samples if one.captions >= last]


class CaptionCount:
    """Counts captions in a journal that grows."""

    def __init__(self, journal: Path) -> None:
        self._journal, self._offset, self._count = journal, 0, 0

    def read(self) -> int:
        """How many there are by now."""
        if self._journal.exists():
            with self._journal.open("rb") as file:
                file.seek(self._offset)
                more = file.read()
            whole = more[: more.rfind(b"\n") + 1]
            self._offset += len(whole)
            self._count += whole.count(b'"kind": "caption"')
        return self._count


def sample(root: int, at_s: float, captions: int) -> Sample:
    """Add up the program's processes."""
    mib: dict[str, float] = defaultdict(float)
    for pid, kind in processes(root):
        try:
            mib[kind] += memory_kib(pid)["Pss"] / 1024
        except (FileNotFoundError, ProcessLookupError, KeyError):
            continue  # it has ended meanwhile
    return Sample(at_s, captions, mib)


def print_growth(reading: list[Sample], writing: list[Sample], minutes: float) -> None:
    """Print ten moments, and the growth an hour of recording."""
    if len(reading) < _ROWS:
        raise SystemExit(f"only {len(reading)} samples: the recording is too short")
    print(f"{'wall s':>8s} {'captions':>9s} {'PSS MiB':>9s}  {' '.join(_KINDS)} rest")
    for index in np.linspace(0, len(reading) - 1, _ROWS).astype(int):
        one = reading[index]
        each = [one.mib.get(kind, 0.0) for kind in _KINDS]
        parts = " ".join(f"{mib:.0f}" for mib in (*each, one.total_mib - sum(each)))
        print(f"{one.at_s:8.0f} {one.captions:9d} {one.total_mib:9.1f}  {parts}")
    kept = reading[len(reading) // 10 :]
    times = np.array([one.at_s for one in kept])
    totals = np.array([one.total_mib for one in kept])
    a_second, error = slope(times, totals)
    span_s = times[-1] - times[0]
    hours = minutes / 60 * span_s / (reading[-1].at_s - reading[0].at_s)
    written = max((one.total_mib for one in writing), default=0.0)
    result = {
        "environment": environment(),
        "minutes": minutes,
        "captions": reading[-1].captions,
        "first_mib": round(float(totals[0]), 1),
        "last_mib": round(float(totals[-1]), 1),
        "most_mib": round(float(totals.max()), 1),
        "growth_mib_an_hour": round(a_second * span_s / hours, 2),
        "growth_bound_mib_an_hour": round((a_second + 2 * error) * span_s / hours, 2),
        "most_while_writing_mib": round(written, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
