"""What change gating leaves out of real clips, and whether anything moves meanwhile.

    python -m benchmarks.gating VIDEO...

A clip of a fixed camera is looked at 2.5 times a second, as the program does. OpenCV's background
model (MOG2), which knows nothing of the gate and sees every frame of the whole picture, says when
something moves: its largest blob is at least ``--blob`` of the picture. The same clip stands for
smaller things when it is shrunk into a still frame of itself, and for dusk when its light fades.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import print_environment, write_json
from pipeline.change_gate import ChangeGate
from pipeline.config import CaptureConfig
from pipeline.pictures import shrink_to, thumbnail

__all__ = ["Gated", "main", "watch"]

_LOOKS_PER_S = 2.5
_SIDE = 256
_NEAR_S = 1.0
_WARM_UP_S = 4.0
Picture = NDArray[np.uint8]
Change = Callable[[Picture, float], Picture]
"""From a frame and its time in seconds to the frame to be judged."""


@dataclass(frozen=True)
class Gated:
    """One clip: ``moving`` of its ``frames`` show a movement, ``seen`` of them are looked at.

    ``near`` of them are looked at or have a frame looked at within a second; ``longest_s`` is the
    longest time without a look while something moved, ``smallest`` the smallest share of the
    picture that counted as moving.
    """

    clip: str
    seconds: float
    frames: int
    looked_at: int
    moving: int
    seen: int
    near: int
    longest_s: float
    smallest: float


def frames_of(video: Path) -> Iterator[tuple[float, Picture]]:
    """Every frame with its time in seconds."""
    capture = cv2.VideoCapture(str(video))
    per_second, number = capture.get(cv2.CAP_PROP_FPS), 0
    while True:
        there, image = capture.read()
        if not there:
            capture.release()
            return
        yield number / per_second, np.asarray(image, np.uint8)
        number += 1


def watch(video: Path, name: str, change: Change, blob: float, shrunk: float = 1.0) -> Gated:
    """Run the gate over a clip; movement is judged on the clip as it is."""
    settings = CaptureConfig()
    gate = ChangeGate(settings.skip_unchanged_below, settings.unchanged_period_s)
    model = cv2.createBackgroundSubtractorMOG2(history=500, varThreshold=25, detectShadows=True)
    looks: list[tuple[float, bool, float]] = []
    time_s = 0.0
    for time_s, image in frames_of(video):
        share = _largest_blob(model.apply(image))
        if time_s * _LOOKS_PER_S < len(looks):
            continue
        small = thumbnail(shrink_to(change(image, time_s), _SIDE, _SIDE))
        looks.append((time_s, not gate.skips(small, time_s), share))
    seen_s = np.array([at_s for at_s, looked, _ in looks if looked])
    moving = [look for look in looks if look[2] >= blob and look[0] >= _WARM_UP_S]
    gaps_s = [float(np.abs(seen_s - at_s).min()) for at_s, _, _ in moving]
    return Gated(
        name,
        time_s,
        len(looks),
        len(seen_s),
        len(moving),
        sum(looked for _, looked, _ in moving),
        sum(gap_s <= _NEAR_S for gap_s in gaps_s),
        max(gaps_s, default=0.0),
        min((share for _, _, share in moving), default=float("nan")) * shrunk**2,
    )


def _largest_blob(mask: Any) -> float:
    """Share of the picture that the largest moving thing covers; shadows (grey) do not count."""
    solid = cv2.morphologyEx((mask == 255).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3)))
    _, _, stats, _ = cv2.connectedComponentsWithStats(solid)
    return float(max(stats[1:, cv2.CC_STAT_AREA], default=0)) / mask.size


def shrunk_into_itself(video: Path, scale: float) -> Change:
    """Put each frame, smaller, into the clip's first frame."""
    _, still = next(frames_of(video))

    def change(image: Picture, time_s: float) -> Picture:
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        picture = still.copy()
        top, left = (picture.shape[0] - small.shape[0]) // 2, (picture.shape[1] - small.shape[1])
        picture[top : top + small.shape[0], left : left + small.shape[1]] = small
        return picture

    return change


def dusk(video: Path, minutes: float) -> Change:
    """Let the light of the clip's first frame, with the clip's own noise, fade in so many minutes.

    Nothing else moves: what differs from the first frame by more than noise is left out.
    """
    _, still = next(frames_of(video))

    def change(image: Picture, time_s: float) -> Picture:
        noise = np.clip(image.astype(np.int16) - still, -6, 6)
        left = max(0.0, 1.0 - time_s / (60.0 * minutes))
        return np.clip((still + noise) * left, 0, 255).astype(np.uint8)

    return change


def main() -> None:
    """Print a table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO")
    parser.add_argument("--blob", type=float, default=0.004, help="share of the picture, 0..1")
    parser.add_argument("--json", type=Path, default=Path("output/bench/gating.json"))
    options = parser.parse_args()
    print_environment()
    print(
        f"{'':38s} {'s':>6s} {'frames':>7s} {'looked at':>10s} {'moving':>7s} {'seen':>6s} "
        f"{'near':>6s} {'longest s':>10s} {'smallest %':>10s}"
    )
    found = []
    for video in options.videos:
        runs: list[tuple[str, Change, float]] = [("as it is", lambda image, _: image, 1.0)]
        for scale in (0.5, 0.25):
            runs.append((f"{scale:g} of its size", shrunk_into_itself(video, scale), scale))
        runs += [(f"dusk in {m:g} min", dusk(video, m), float("nan")) for m in (2, 10)]
        for name, change, scale in runs:
            fades = name.startswith("dusk")
            one = watch(
                video, f"{video.stem}, {name}", change, 9.0 if fades else options.blob, scale
            )
            found.append(one)
            share = one.looked_at / one.frames
            print(
                f"{one.clip:38s} {one.seconds:6.0f} {one.frames:7d} {share:10.2f} {one.moving:7d} "
                f"{_share(one.seen, one.moving):>6s} {_share(one.near, one.moving):>6s} "
                f"{one.longest_s:10.1f} {100 * one.smallest:10.2f}",
                flush=True,
            )
    write_json(options.json, {"clips": [asdict(one) for one in found]})


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2f}" if whole else "-"


if __name__ == "__main__":
    main()
