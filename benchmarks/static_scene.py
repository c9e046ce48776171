"""What change gating saves: python -m benchmarks.static_scene.

The program captions a still, slightly noisy scene with gating and without; decoding the video is
measured apart and taken off both.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np

from benchmarks.end_to_end import Parts, run_program
from benchmarks.measure import Contender, interleave, print_environment, print_table, write_json
from benchmarks.real_frames import clip

__all__ = ["main"]

_FPS = 25


def still_scene(folder: Path, seconds: int) -> Path:
    """Write a recording of one real picture with a sensor's noise."""
    picture = cv2.VideoCapture(str(clip("bikes.mp4"))).read()[1]
    size = (picture.shape[1], picture.shape[0])
    file = folder / f"still-{seconds}.mp4"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), _FPS, size)
    random = np.random.default_rng(0)
    noises = [random.normal(0, 3, picture.shape) for _ in range(10)]
    for number in range(seconds * _FPS):
        writer.write(np.clip(picture + noises[number % 10], 0, 255).astype(np.uint8))
    writer.release()
    return file


def main() -> None:
    """Run the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--json", type=Path, default=Path("output/bench/static_scene.json"))
    options = parser.parse_args()
    print_environment()
    with tempfile.TemporaryDirectory() as name:
        folder, seconds = Path(name), options.seconds
        short, long = still_scene(folder, 10), still_scene(folder, 10 + seconds)
        ungated = folder / "ungated.yaml"
        ungated.write_text("capture:\n  skip_unchanged_below: 0.0\n")
        without = ["--config", str(ungated)]
        timings = interleave(
            [
                Contender("gated, short", lambda: run_program([short], folder)),
                Contender("gated, long", lambda: run_program([long], folder)),
                Contender("ungated, short", lambda: run_program([short], folder, without)),
                Contender("ungated, long", lambda: run_program([long], folder, without)),
                Contender("decode the video, a second", Parts(short).decode_video, 10),
            ],
            options.rounds,
            warm_up=False,  # every run of the program starts anew
        )
    print_table("A still scene", timings)
    least = {what: timing.least_ms for what, timing in timings.items()}
    decoding = least["decode the video, a second"]
    gated = (least["gated, long"] - least["gated, short"]) / seconds - decoding
    full = (least["ungated, long"] - least["ungated, short"]) / seconds - decoding
    print(f"a second, decoding taken off: gated {gated:.1f} ms, ungated {full:.1f} ms")
    print(f"gated / ungated {gated / full:.2f}")
    write_json(options.json, {"timings": timings, "gated / ungated": gated / full})


if __name__ == "__main__":
    main()
