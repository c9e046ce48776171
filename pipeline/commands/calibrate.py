"""``rules calibrate``: a threshold for a wanted rate of false alerts, and the curve behind it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.common import SHIPPED_RULES, WrongUse
from pipeline.commands.stored import stored_captions
from pipeline.rules import load_rules
from pipeline.rules.calibration import Point, Threshold, calibrate, chosen, read_labels

__all__ = ["calibrate_command"]


def calibrate_command(  # noqa: PLR0913 - one parameter an option
    captions: Annotated[
        Path, typer.Option(help="Captions with evidence: JSONL, or a run's store.")
    ],
    labels: Annotated[Path, typer.Option(help="What happened when, JSONL (docs/rules.md).")],
    rule: Annotated[str, typer.Option(help="The rule's name.")],
    threshold: Annotated[
        str, typer.Option(help="min_probability, beams, or_concepts.WORD, probes.SENTENCE, …")
    ] = "min_probability",
    false_per_hour: Annotated[float, typer.Option(min=0, help="The rate you can bear.")] = 1.0,
    rules: Annotated[Path | None, typer.Option(help="A rules file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curve: a .png or .svg file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Choose a threshold of a rule on labelled captions.

    Example: watchword rules calibrate --captions out/gate.jsonl --labels labels.jsonl --rule fight
    """
    points = calibrate(
        stored_captions(captions),
        read_labels(labels),
        load_rules(rules or SHIPPED_RULES),
        rule,
        Threshold(threshold),
    )
    best = chosen(points, false_per_hour)
    if plot is not None:
        draw(points, best, f"{rule}: {threshold}", plot)
    if as_json:
        found = None if best is None else asdict(best)
        print(json.dumps({"points": [asdict(point) for point in points], "chosen": found}))
        return
    _print(points, best, threshold, false_per_hour)


def draw(points: Sequence[Point], best: Point | None, title: str, path: Path) -> None:
    """Draw recall over false alerts an hour.

    Raises:
        WrongUse: matplotlib is not installed, or the file's ending is no picture's.

    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and only for a picture
    except ImportError:
        raise WrongUse("--plot needs matplotlib; pip install 'watchword[plots]'") from None
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot(
        xlabel="false alerts an hour", ylabel="share of events found", ylim=(0, 1.02), title=title
    )
    axes.plot([p.false_per_hour for p in points], [p.recall for p in points], marker=".")
    if best is not None:
        axes.plot(best.false_per_hour, best.recall, "o", label=f"chosen: {best.value:.4g}")
        axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise WrongUse(f"{path} cannot be drawn: {error}") from None


def _print(points: Sequence[Point], best: Point | None, key: str, wanted: float) -> None:
    print(f"{'threshold':>12} {'recall':>8} {'false/h':>8}")
    for point in points:
        mark = "  <- chosen" if point == best else ""
        print(f"{point.value:12.4g} {point.recall:8.3f} {point.false_per_hour:8.3f}{mark}")
    if best is None:
        least = min(point.false_per_hour for point in points)
        sys.stderr.write(f"no value keeps to {wanted:g} an hour; the least is {least:.3g}\n")
    else:
        print(f"{key}: {best.value:.4g}")
