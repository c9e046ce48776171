"""Cost curves as pictures: python -m benchmarks.curves. Beam 1..10, batch 1..256, side, cameras.

Cameras are read from what `benchmarks.live` wrote, where it has.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Sequence
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
Curve = list[tuple[float, float]]


def measured(work: Callable[[int], Contender], values: Sequence[int], rounds: int) -> Curve:
    """Least CPU ms an item at each value."""
    timings = interleave([work(value) for value in values], rounds)
    return [(v, timings[work(v).name].least_ms) for v in values]


def curves(rounds: int, most: int | None = None) -> dict[str, Curve]:
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
        pixels = torch.zeros((8, 3, side, side), dtype=torch.uint8).numpy()
        return Contender(f"side {side}", lambda: request([pixels]), 8)

    return {
        "caption, batch 16: beam size": measured(lambda beam: decode(16, beam), beams, rounds),
        "caption, beam 3: batch size": measured(lambda batch: decode(batch, 3), batches, rounds),
        "encode a frame, batch 8: side in pixels": measured(encode, sides, rounds),
    }


def cameras(file: Path) -> dict[str, Curve]:
    """Read the curve over cameras from what `benchmarks.live` wrote."""
    if not file.exists():
        return {}
    loads: list[dict[str, Any]] = json.loads(file.read_text())["loads"]
    points = [
        (x["cameras"], 1e3 * sum(x["cpu_s"].values()) / x["seconds"] / x["cameras"]) for x in loads
    ]
    return {"a camera a second: live cameras": points}


def draw(curve: Curve, title: str, file: Path) -> None:
    """Draw one curve."""
    what, _, along = title.partition(": ")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*curve, strict=True), marker="o")
    axes.set(xlabel=along, ylabel=f"CPU ms, {what}", ylim=(0, None))
    if along.endswith("batch size"):
        axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


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
    found = {**curves(*quick), **cameras(options.output / "live.json")}
    write_json(options.output / "curves.json", {"curves": found})
    for title, curve in found.items():
        name = title.partition(": ")[2].replace(" ", "-")
        draw(curve, title, options.output / f"{name}.png")
        print(title, [(x, round(y, 2)) for x, y in curve])


if __name__ == "__main__":
    main()
