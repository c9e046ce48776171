"""The whole program against its parts: python -m benchmarks.end_to_end.

A recording is made by repeating a real clip. The program captions a short and a long one; the
difference is what a second of video costs, without the start. Beside it stand the parts alone:
decoding the video, encoding the frames looked at, decoding the captions. CPU time counts every
process of a run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.measure import (
    Contender,
    Timing,
    interleave,
    print_environment,
    print_table,
    write_json,
)
from benchmarks.real_frames import clip
from models import load_captioner
from models.transforms import to_square

__all__ = ["main"]

_ROOT = Path(__file__).parent.parent
_FPS, _EVERY, _PER_CAPTION = 25, 10, 25
_WINDOW = 5
_BATCH = 16
_FRAMES = _BATCH * _PER_CAPTION // _EVERY


def repeated(name: str, folder: Path, seconds: int) -> Path:
    """Write a recording of so many seconds, 25 frames a second, by repeating a clip."""
    video, file = cv2.VideoCapture(str(clip(name))), folder / f"{Path(name).stem}-{seconds}.mp4"
    size = (int(video.get(cv2.CAP_PROP_FRAME_WIDTH)), int(video.get(cv2.CAP_PROP_FRAME_HEIGHT)))
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), _FPS, size)
    written = 0
    while written < seconds * _FPS:
        ok, image = video.read()
        if not ok:
            video.set(cv2.CAP_PROP_POS_FRAMES, 0)
            continue
        writer.write(image)
        written += 1
    writer.release()
    video.release()
    return file


def run_program(files: list[Path], folder: Path, options: Sequence[str] = ()) -> None:
    """Caption recordings with the program as a user starts it."""
    named = [f"c{i}={file}" for i, file in enumerate(files)]
    done = subprocess.run(
        [
            *(sys.executable, str(_ROOT / "run_stream.py"), "run", *named),
            *("--output", str(folder / "out"), "--json", "--format", "jsonl"),
            *options,
        ],
        check=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        cwd=folder,
    )
    if done.returncode:
        raise SystemExit(f"the program left with {done.returncode}: {done.stderr.strip()[-500:]}")


class Parts:
    """The parts, each alone, over one recording."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._captioner = load_captioner("default", "cpu", "auto")
        squares = self._looked_at()
        frames = [np.ascontiguousarray(squares[i % len(squares)]) for i in range(_FRAMES)]
        self._batch = np.stack(frames[:_BATCH])
        parts = [frames[i : i + _BATCH] for i in range(0, _FRAMES, _BATCH)]
        self._features = [one for part in parts for one in self._captioner.encode(np.stack(part))]

    def decode_video(self) -> None:
        """Decode every frame; convert and shrink those looked at."""
        self._looked_at()

    def encode(self) -> None:
        """Encode one batch."""
        self._captioner.encode(self._batch)

    def decode_captions(self) -> None:
        """Caption one batch of windows of frames not seen before, each frame in two or so."""
        fresh = [features.clone() for features in self._features]
        ends = [1 + i * _PER_CAPTION // _EVERY for i in range(_BATCH)]
        windows = [fresh[max(0, end - _WINDOW) : end] for end in ends]
        self._captioner.decode([(own, [0.4 * k for k in range(len(own))]) for own in windows])

    def _looked_at(self) -> list[Any]:
        video, squares, number = cv2.VideoCapture(str(self._file)), [], 0
        while video.grab():
            if number % _EVERY == 0:
                image = video.retrieve()[1]
                squares.append(to_square(image, self._captioner.input_size)[:, :, ::-1])
            number += 1
        video.release()
        return squares


def second_of_video(timings: dict[str, Timing], seconds: int) -> dict[str, float]:
    """CPU ms of a second of video: the program's, the parts', and their ratio."""
    looked_at, captions = _FPS / _EVERY, _FPS / _PER_CAPTION
    parts = (
        timings["decode the video, a second"].least_ms
        + timings["encode, a frame"].least_ms * looked_at
        + timings["caption, a window"].least_ms * captions
    )
    long, short = timings["program, long"].cpu_ms, timings["program, short"].cpu_ms
    whole = (min(long) - min(short)) / seconds
    median = statistics.median(a - b for a, b in zip(long, short, strict=True)) / seconds
    return {
        "program": whole,
        "program, median of rounds": median,
        "parts": parts,
        "program / parts": whole / parts,
    }


def main() -> None:
    """Run the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clip", default="bikes.mp4")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--json", type=Path, default=Path("output/bench/end_to_end.json"))
    options = parser.parse_args()
    print_environment()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        short = repeated(options.clip, folder, 10)
        long = repeated(options.clip, folder, 10 + options.seconds)
        parts = Parts(short)
        timings = interleave(
            [
                Contender("program, short", lambda: run_program([short], folder)),
                Contender("program, long", lambda: run_program([long], folder)),
                Contender("decode the video, a second", parts.decode_video, 10),
                Contender("encode, a frame", parts.encode, _BATCH),
                Contender("caption, a window", parts.decode_captions, _BATCH),
            ],
            options.rounds,
            warm_up=False,  # every run of the program starts anew
        )
        print_table(f"End to end on {options.clip}", timings)
        ratios = second_of_video(timings, options.seconds)
        for what, value in ratios.items():
            print(f"{what:44s} {value:12.2f}")
    write_json(options.json, {"timings": timings, "second of video": ratios})


if __name__ == "__main__":
    main()
