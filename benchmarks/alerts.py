"""Video through the whole program with the shipped rules: recall, false alerts per hour, delay.

    python -m benchmarks.alerts [--split val|train] [--model NAME] [--rules FILE] [--json FILE]

Timelines of real footage with fights and fires set in (how they are made:
`benchmarks/timelines.py`) are watched by `run_stream.py run --json` as a user would run it:
grabbers, captioner child, rules; a few cameras at a time. Its alerts are held against what is known
of the timelines (what counts as found and as false: `benchmarks/alert_scores.py`). The delay runs
from the event's first frame to the frame that raised the alert, on the recording's own clock;
computing comes on top when live.

Figures come from `--split val`, whose scenes the model has not seen. `--split train` is for
choosing rules: the model has seen those scenes, so its figures flatter. `--keep FOLDER` keeps
timelines, captions, and what happens when (`labels.jsonl`, for `rules calibrate`); `--captions
FOLDER` scores kept captions again, with other rules and without the model.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.alert_scores import score, started_of, table
from benchmarks.program import watch
from benchmarks.timelines import Timeline, plan, unpack, write
from models.training.sources import data_root
from pipeline.alerts import encode_alert
from pipeline.rules import load_rules, read_captions, replay

SHIPPED_RULES = Path(__file__).parent.parent / "configs" / "rules.yaml"
NOON = "2026-01-01T12:00:00Z"  # rules with a schedule are to see the same time in every run


def chosen(timelines: Sequence[Timeline], at_most: int, seed: int) -> list[Timeline]:
    """At most so many timelines of each kind (fight, fire, normal, picture), by seed."""
    kinds: dict[str, list[Timeline]] = defaultdict(list)
    for timeline in timelines:
        kinds[timeline.name.partition("-")[0]].append(timeline)
    order = random.Random(seed)
    return [
        timeline
        for group in kinds.values()
        for timeline in (order.sample(group, at_most) if len(group) > at_most else group)
    ]


def watched(
    timelines: Sequence[Timeline], folder: Path, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Make the timelines, run the program over them a few at a time, and yield its alerts."""
    arguments = ["--rules", str(options.rules), "--format", "jsonl", "--start-time", NOON]
    if options.model:
        arguments += ["--model", options.model]
    for first in range(0, len(timelines), options.cameras):
        group = timelines[first : first + options.cameras]
        files = {timeline.name: folder / f"{timeline.name}.avi" for timeline in group}
        for timeline in group:
            write(timeline, files[timeline.name], options.seed)
        with tempfile.TemporaryDirectory() as output:
            printed = watch(files, Path(output), arguments)
        lines = map(json.dumps, printed.captions)
        (folder / f"captions-{first:04}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        if not options.keep:
            for path in files.values():
                path.unlink()
        sys.stderr.write(f"{first + len(group)} of {len(timelines)} timelines\n")
        yield from printed.alerts


def replayed(folder: Path, rules: Path) -> Iterator[dict[str, Any]]:
    """Alerts that kept captions raise with other rules."""
    captions = chain.from_iterable(map(read_captions, sorted(folder.glob("captions-*.jsonl"))))
    return map(encode_alert, replay(captions, load_rules(rules)))


def labels(timelines: Sequence[Timeline]) -> Iterator[dict[str, Any]]:
    """What happens when, in the form that `rules calibrate --labels` reads."""
    for timeline in timelines:
        start_s = 0.0
        for segment in timeline.segments:
            tags = segment.footage.shows | ({segment.event} if segment.event else set())
            if tags:
                span = {"from_s": start_s, "to_s": start_s + segment.seconds}
                yield {"camera": timeline.name, "tags": sorted(tags), **span}
            start_s += segment.seconds


def measure(options: argparse.Namespace, data: Path, folder: Path) -> dict[str, Any]:
    unpack(data, folder / "unpacked")
    hazards = options.hazards.split(",")
    timelines = plan(data, folder / "unpacked", options.split, hazards, options.seed)
    timelines = chosen(timelines, options.at_most, options.seed)
    lines = [json.dumps(label) + "\n" for label in labels(timelines)]
    (folder / "labels.jsonl").write_text("".join(lines), "utf-8")
    start_s = time.monotonic()
    if options.captions:
        alerts = list(replayed(options.captions, options.rules))
    else:
        alerts = list(watched(timelines, folder, options))
    report = score(timelines, started_of(alerts))
    video_s = sum(segment.seconds for timeline in timelines for segment in timeline.segments)
    about = {"split": options.split, "seed": options.seed, "model": options.model or "default"}
    about |= {"video_s": round(video_s, 1), "wall_s": round(time.monotonic() - start_s, 1)}
    return {**about, **report}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", choices=("val", "train"), default="val")
    parser.add_argument("--hazards", default="fire,fight", help="also crash, person_down, smoke")
    parser.add_argument("--model", help="a checkpoint; else the shipped one")
    parser.add_argument("--rules", type=Path, default=SHIPPED_RULES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-most", type=int, default=10_000, help="timelines of each kind")
    parser.add_argument("--cameras", type=int, default=12, help="cameras watched at a time")
    parser.add_argument("--keep", type=Path, help="a folder for timelines and captions")
    parser.add_argument("--captions", type=Path, help="a kept folder, to score with other rules")
    parser.add_argument("--json", type=Path, help="write the whole report here")
    options = parser.parse_args()
    data = data_root()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.captions or options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        report = measure(options, data, folder)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(table(report))
    for missed in (e for events in report["events"].values() for e in events):
        if missed["delay_s"] is None:
            print(f"missed: {missed['timeline']} {missed['footage']} (scene {missed['scene']})")
    for false in report["normal_video"]["alerts"] + report["normal_pictures"]["alerts"]:
        print(
            f"false: {false['rule']} at {false['media_s']:.1f} s of {false['timeline']}: "
            f"{false['caption']}"
        )


if __name__ == "__main__":
    main()
