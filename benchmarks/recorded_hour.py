"""How long an hour of 720p video takes on two cores, beside decoding the same file and no more.

    python -m benchmarks.recorded_hour [--minutes 60] [--videos FOLDER]

ffmpeg makes a recording of the folder's clips (1280 x 720, H.264, 25 frames a second), each in turn
and then again. It is decoded once, every frame, by the library that the grabbers use; then the
program watches it with default settings and writes its default files. Both are held on two cores.
With fewer ``--minutes`` an hour is extrapolated, and said to be: the start, which does not grow
with the recording, plus so many times the rest. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import cv2

from benchmarks.long_recording import VIDEOS, long_recording
from benchmarks.measure import environment
from benchmarks.program import watch

_SIZE = (1280, 720)
_CORES = 2


def main() -> int:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the recording")
    parser.add_argument("--videos", type=Path, default=VIDEOS, help="a folder of clips")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:_CORES]
    os.sched_setaffinity(0, cores)
    cv2.setNumThreads(len(cores))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = sorted(options.videos.glob("*.mp4"))
        recording = long_recording(folder, clips, options.minutes * 60, _SIZE)
        sys.stderr.write(f"{options.minutes:g} minutes made of {len(clips)} clips\n")
        begun_s = time.monotonic()
        frames = decode(recording)
        decoding_s = time.monotonic() - begun_s
        sys.stderr.write(f"{frames} frames decoded in {decoding_s:.1f} s\n")
        begun_s = time.monotonic()
        summary = watch({"hour": recording}, folder / "out").summary
        program_s = time.monotonic() - begun_s
    hours = options.minutes / 60
    start_s = program_s - summary["wall_s"]
    hour_s = start_s + summary["wall_s"] / hours
    books = summary["total"]
    print(
        json.dumps(
            {
                "environment": environment(),
                "cores_used": len(cores),
                "minutes": options.minutes,
                "extrapolated": hours < 1,
                "frames": books["frames"],
                "captions": books["windows"]["captioned"],
                "decoding_s": round(decoding_s, 1),
                "start_s": round(start_s, 1),
                "reading_s": round(summary["wall_s"], 1),
                "wall_s_an_hour": round(hour_s),
                "decoding_s_an_hour": round(decoding_s / hours),
                "ratio": round(hour_s / (decoding_s / hours), 2),
            }
        )
    )
    return 0


def decode(recording: Path) -> int:
    """Decode every frame, and count them."""
    video = cv2.VideoCapture(str(recording))
    frames = 0
    while video.grab():
        frames += 1
    video.release()
    return frames


if __name__ == "__main__":
    sys.exit(main())
