"""Every ratio that speed is held to, in one table: python -m benchmarks.ratios [DIR].

Reads what the other benchmarks wrote into a folder (`make bench` writes into `output/bench`). A
ratio that nothing there tells is not yet measured. Prints Markdown, for `benchmarks/RESULTS.md`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Row", "main", "rows"]

Read = Callable[[dict[str, Any]], float]


@dataclass(frozen=True)
class Row:
    """A ratio: what it is, its target, the file that holds it, how to read it, and the command."""

    what: str
    target: str
    file: str
    read: Read
    command: str

    def met(self, value: float) -> bool | None:
        """Whether the target is reached; None where there is none."""
        sign, _, limit = self.target.partition(" ")
        if sign not in (">=", "<="):
            return None
        return value >= float(limit.rstrip("xs")) if sign == ">=" else value <= float(limit[:-1])


def _tutorial(name: str) -> Read:
    return lambda found: found["tutorial shape"]["ratios"][name]


def _gpu(name: str) -> Read:
    return lambda found: found["ratios"][name]


def _cost_of_a_camera(found: dict[str, Any]) -> float:
    """CPU of a camera among 16 over that of a single one."""
    cost = {
        load["cameras"]: sum(load["cpu_s"].values()) / load["seconds"] for load in found["loads"]
    }
    return cost[16] / 16 / cost[1]


_DECODING, _GPU = "python -m benchmarks.decoding", "python -m benchmarks.gpu"
_LATENCY = "python -m benchmarks.alert_latency"
ROWS = (
    Row(
        "tutorial-style search / ours, batch 16, beam 5",
        ">= 15x",
        "decoding.json",
        _tutorial("tutorial's way / ours"),
        _DECODING,
    ),
    Row(
        "Hugging Face `generate` / ours, both batch 16",
        ">= 4.5x",
        "decoding.json",
        _tutorial("Hugging Face / ours, both batch 16"),
        _DECODING,
    ),
    Row(
        "ours / its matrix products",
        "<= 1.5x",
        "decoding.json",
        _tutorial("ours / matrix products"),
        _DECODING,
    ),
    Row(
        "beam 5 / beam 1, batch 16",
        "<= 2.5x",
        "decoding.json",
        _tutorial("beam 5 / beam 1"),
        _DECODING,
    ),
    Row(
        "shipped model: beam 5 / beam 1, batch 16",
        "report",
        "decoding.json",
        lambda found: found["shipped shape"]["ratios"]["beam 5 / beam 1, batch 16"],
        _DECODING,
    ),
    Row(
        "end to end / decode + encode + search",
        "<= 1.10x",
        "end_to_end.json",
        lambda found: found["second of video"]["program / parts"],
        "python -m benchmarks.end_to_end",
    ),
    Row(
        "cost of a camera at 16 / at 1, key frames alone",
        "<= 1.1x",
        "live-key-frames.json",
        _cost_of_a_camera,
        "python -m benchmarks.live --scene key-frames --cameras 1 16",
    ),
    Row(
        "latency grab to alert at 70 % load, p50",
        "<= 0.5s",
        "alert_latency.json",
        lambda found: found["latency"]["p50_s"],
        _LATENCY,
    ),
    Row(
        "latency grab to alert at 70 % load, p99",
        "<= 1.5s",
        "alert_latency.json",
        lambda found: found["latency"]["p99_s"],
        _LATENCY,
    ),
    Row(
        "still scene: with gating / without",
        "<= 0.2x",
        "static_scene.json",
        lambda found: found["gated / ungated"],
        "python -m benchmarks.static_scene",
    ),
    Row(
        "GPU: tutorial-style search / ours",
        ">= 100x",
        "gpu.json",
        _gpu("tutorial's way / ours"),
        _GPU,
    ),
    Row(
        "GPU: Hugging Face `generate` / ours",
        ">= 4x",
        "gpu.json",
        _gpu("Hugging Face / ours, both batch 16"),
        _GPU,
    ),
    Row(
        "GPU: ours / its matrix products",
        "<= 3x",
        "gpu.json",
        _gpu("ours / matrix products"),
        _GPU,
    ),
    Row("GPU: beam 5 / beam 1, batch 16", "<= 1.5x", "gpu.json", _gpu("beam 5 / beam 1"), _GPU),
    Row(
        "GPU, shipped model: beam 5 / beam 1, batch 16",
        "<= 1.5x",
        "gpu.json",
        _gpu("shipped model, beam 5 / beam 1, batch 16"),
        _GPU,
    ),
)


def rows(folder: Path) -> Iterator[tuple[Row, float | None, str]]:
    """Give each ratio with what came out, None where nothing tells it, and the device."""
    for row in ROWS:
        file = folder / row.file
        found = json.loads(file.read_text()) if file.is_file() else {}
        try:
            value: float | None = float(row.read(found))
        except (KeyError, ZeroDivisionError):
            value = None
        if value is not None and math.isnan(value):
            value = None
        where = found.get("environment", {})
        yield row, value, str(where.get("device") or where.get("cpu") or "")


def main() -> None:
    """Print the table, then on what each file was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("output/bench"))
    folder = parser.parse_args().folder
    print("| ratio | target | came out | device | command |\n|---|---|---|---|---|")
    for row, value, device in rows(folder):
        got = "not yet measured"
        if value is not None:
            unit = "s" if row.target.endswith("s") else "x"
            met = row.met(value)
            got = f"{value:.2f}{unit}" if met is not False else f"**{value:.2f}{unit}**, missed"
        print(f"| {row.what} | {row.target} | {got} | {device} | `{row.command}` |")
    for file in sorted({row.file for row in ROWS}):
        if (folder / file).is_file():
            about = json.loads((folder / file).read_text())["environment"]
            load = ", ".join(f"{value:.1f}" for value in about["load"])
            packages = {name: v for name, v in about["packages"].items() if v}
            versions = ", ".join(f"{name} {v}" for name, v in packages.items())
            print(f"\n{file}: {about['time']}, {about['cores']} cores, load {load}, {versions}")


if __name__ == "__main__":
    main()
