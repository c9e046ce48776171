"""Cost curves as one picture: python -m benchmarks.curves. Beam, batch, picture's side, cameras.

The least CPU time of some rounds at each value. Cameras are read from what `benchmarks.live` has
written into the same folder, as a program takes half a minute to start for every point.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Contender, interleave, print_environment, write_json
from benchmarks.real_frames import frames_of
from models import load_captioner
from models.encoders import build_encoder
from models.runtimes.openvino import encoder_graph

__all__ = ["main"]

_BEAMS = (1, 2, 3, 5, 10)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SIDES = (160, 192, 224, 260, 320)
_SCENES = {
    "live.json": "every frame decoded",
    "live-key-frames.json": "key frames alone",
    "live-still.json": "a still scene, key frames alone",
}
_ENOUGH = 0.8  # of the captions that each has where there are fewest cameras
Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One pair of axes: what costs how many CPU milliseconds, along what."""

    cost: str
    along: str
    curves: dict[str, Curve]
    doubling: bool = False
    """Whether the values are powers of two, to be shown at equal distances."""


def measured(work: Callable[[int], Contender], values: Sequence[int], rounds: int) -> Curve:
    """Least CPU ms an item at each value."""
    contenders = [work(value) for value in values]
    timings = interleave(contenders, rounds)
    return [(v, timings[one.name].least_ms) for v, one in zip(values, contenders, strict=True)]


def model_panels(rounds: int, most: int | None = None) -> list[Panel]:
    """Measure every curve but cameras; at the first ``most`` values of each."""
    captioner = load_captioner("default", "cpu", "auto")
    frames = frames_of("bikes.mp4", 20, captioner.input_size, every=10)
    features = list(captioner.encode(frames))
    times = [0.4 * i for i in range(5)]
    beams, batches, sides = (values[:most] for values in (_BEAMS, _BATCHES, _SIDES))
    windows = [(features[i % 16 : i % 16 + 5], times) for i in range(max(16, *batches))]
    encoder = build_encoder(captioner.encoder.name)

    def decode(batch: int, beam: int) -> Contender:
        run = lambda: captioner.decode(windows[:batch], beam_size=beam)  # noqa: E731
        return Contender(f"batch {batch} beam {beam}", run, batch)

    def encode(side: int) -> Contender:
        request = encoder_graph(encoder, side).compile("f32", torch.get_num_threads())
        pixels = torch.zeros((8, 3, side, side), dtype=torch.uint8)
        return Contender(f"side {side}", lambda: request([pixels]), 8)

    by_side = measured(encode, sides, rounds)
    by_beam = measured(lambda beam: decode(16, beam), beams, rounds)
    by_batch = measured(lambda batch: decode(batch, 3), batches, rounds)
    return [
        Panel("a caption", "beam size", {"batches of 16": by_beam}),
        Panel("a caption", "captions in a batch", {"beam size 3": by_batch}, doubling=True),
        Panel("to encode a frame", "side of the frame, pixels", {"batches of 8": by_side}),
    ]


def camera_panels(folder: Path) -> list[Panel]:
    """Read the curves over cameras from what `benchmarks.live` wrote; none where it has not.

    A curve ends before the machine does: cameras that go without captions cost less.
    """
    curves: dict[str, Curve] = {}
    for name, scene in _SCENES.items():
        if (folder / name).exists():
            loads: list[dict[str, Any]] = json.loads((folder / name).read_text())["loads"]
            shares = [1.0 / load["seconds"] / load["cameras"] for load in loads]
            enough = _ENOUGH * loads[0]["captions"] * shares[0]
            curves[scene] = [
                (load["cameras"], 1e3 * sum(load["cpu_s"].values()) * share)
                for load, share in zip(loads, shares, strict=True)
                if load["captions"] * share >= enough
            ]
    return [Panel("a camera a second", "live cameras", curves, doubling=True)] if curves else []


def draw(panels: Sequence[Panel], file: Path) -> None:
    """Draw all panels, two in a row."""
    from matplotlib.figure import Figure

    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(9, 3.2 * rows), layout="constrained")
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, 2, number)
        for label, curve in panel.curves.items():
            axes.plot(*zip(*curve, strict=True), marker="o", label=label)
        if panel.doubling:
            axes.set_xscale("log", base=2)
        values = sorted({value for curve in panel.curves.values() for value, _ in curve})
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.set(xlabel=panel.along, ylabel=f"CPU ms {panel.cost}", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(file, dpi=100)


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("output/bench"))
    parser.add_argument("--quick", action="store_true", help="few values, one round")
    options = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:  # told before minutes of measuring
        raise SystemExit("install the bench extra: pip install -e .[bench]")
    print_environment()
    quick = (1, 2) if options.quick else (options.rounds, None)
    panels = [*model_panels(*quick), *camera_panels(options.output)]
    for panel in panels:
        for label, curve in panel.curves.items():
            points = [(value, round(ms, 1)) for value, ms in curve]
            print(f"CPU ms {panel.cost} by {panel.along}, {label}: {points}")
    write_json(options.output / "curves.json", {"panels": [asdict(panel) for panel in panels]})
    draw(panels, options.output / "curves.png")


if __name__ == "__main__":
    main()
