"""Real footage through the whole program, to be read by eye: captions beside their pictures.

    python -m benchmarks.field_notes [VIDEO ...] [--data DATA] [--split val] [--sheets FOLDER]

Every video is watched by `run_stream.py run --json` with the shipped rules, a few at a time. One
line a video, with its captions and alerts, is printed as a Markdown table. `--sheets` gets a
picture of each long video, and one of each dozen short ones: frames with the caption of that moment
under them, red where an alert starts. What is right and wrong has to be judged by looking at them;
`docs/field-notes.md` holds such a reading. Without VIDEO, those of `DATA/videos` and the clips of a
split of `DATA/surveillance` are taken.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.program import watch
from benchmarks.timelines import unpack
from models.training.sources import data_root
from pipeline.outputs.thumbnails import frames

SHORT_S = 10.0
CELLS_ACROSS, CELLS_A_SHEET = 4, 24
WIDTH, GAP, LINE = 320, 8, 18  # pixels
INK, RED, BACKGROUND = (235, 235, 235), (60, 60, 230), (32, 32, 32)


@dataclass(frozen=True, slots=True)
class Watched:
    """What a run said of one video, and what is known to be in it."""

    name: str
    file: Path
    about: str
    captions: Sequence[dict[str, Any]]
    alerts: Sequence[dict[str, Any]]

    @property
    def length_s(self) -> float:
        """From the start to the last caption."""
        return max((caption["media_time_s"] for caption in self.captions), default=0.0)

    def row(self) -> str:
        """A line of the table."""
        said = Counter(caption["text"] for caption in self.captions)
        alerts = Counter(alert["data"]["rule"] for alert in self.alerts)
        most = "; ".join(f"{text} ({count})" for text, count in said.most_common(3))
        raised = ", ".join(f"{rule} {count}" for rule, count in alerts.most_common()) or "-"
        counts = f"{len(self.captions)} | {len(said)}"
        return f"| {self.name} | {self.about} | {counts} | {most} | {raised} |"


@dataclass(frozen=True, slots=True)
class Cell:
    """A moment: where, what was said, and whether an alert started."""

    file: Path
    at_ms: int
    text: str
    alert: bool


def footage(options: argparse.Namespace, folder: Path) -> dict[str, tuple[Path, str]]:
    """Videos by camera name, each with what is known of it."""
    if options.videos:
        return {path.stem: (path, "") for path in options.videos}
    found = {path.stem: (path, "") for path in sorted((options.data / "videos").glob("*.mp4"))}
    unpack(options.data, folder)
    labels = (options.data / "surveillance" / "captions.jsonl").read_text("utf-8").splitlines()
    for row in map(json.loads, labels):
        if row["split"] == options.split and row.get("clip"):
            found[Path(row["clip"]).stem] = (folder / "clips" / row["clip"], row["clip_event"])
    return found


def watched(
    found: dict[str, tuple[Path, str]], at_once: int, arguments: Sequence[str]
) -> Iterator[Watched]:
    """Run the program over the videos, so many at once."""
    left = iter(found)
    while names := list(islice(left, at_once)):
        with tempfile.TemporaryDirectory() as output:
            files = {name: found[name][0] for name in names}
            printed = watch(files, Path(output), ["--format", "jsonl", *arguments])
        for name in names:
            captions = [each for each in printed.captions if each["camera"] == name]
            starts = [each for each in printed.alerts if each["type"].endswith(".started")]
            alerts = [each for each in starts if each["data"]["camera"] == name]
            yield Watched(name, *found[name], captions, alerts)
        sys.stderr.write(f"{', '.join(names)} watched\n")


def cells_of(video: Watched, at_most: int) -> list[Cell]:
    """Moments of a video, evenly spread, and those at which alerts start."""
    starts = {alert["data"]["frame_time"]: alert["data"]["rule"] for alert in video.alerts}
    step = max(1, -(-len(video.captions) // at_most))
    cells = []
    for number, caption in enumerate(video.captions):
        rule = starts.get(caption["time"])
        if rule or number % step == 0:
            text = (f"ALERT {rule}: " if rule else "") + caption["text"]
            label = f"{video.name} {video.about} {caption['media_time_s']:.0f}s: {text}"
            cells.append(Cell(video.file, round(1000 * caption["media_time_s"]), label, bool(rule)))
    return cells


def sheets(videos: Sequence[Watched]) -> Iterator[tuple[str, list[Cell]]]:
    """Name and moments of each sheet."""
    short = [video for video in videos if video.length_s < SHORT_S]
    for video in videos:
        if video not in short:
            yield video.name, cells_of(video, CELLS_A_SHEET)
    each_twice = [cell for video in short for cell in cells_of(video, 2)]
    for first in range(0, len(each_twice), CELLS_A_SHEET):
        yield f"clips-{first:03}", each_twice[first : first + CELLS_A_SHEET]


def drawn(cells: Sequence[Cell]) -> np.ndarray[Any, Any]:
    """Draw the pictures with their captions, (H, W, 3) uint8 BGR."""
    tiles = [tile for cell in cells if (tile := _tile(cell)) is not None]
    height = max(tile.shape[0] for tile in tiles)
    filled = [np.pad(t, ((0, height - t.shape[0] + GAP), (0, GAP), (0, 0))) for t in tiles]
    filled += [np.zeros_like(filled[0])] * (-len(filled) % CELLS_ACROSS)
    rows = [filled[n : n + CELLS_ACROSS] for n in range(0, len(filled), CELLS_ACROSS)]
    return np.vstack([np.hstack(row) for row in rows])


def _tile(cell: Cell) -> np.ndarray[Any, Any] | None:
    for _, frame in frames(cell.file, [cell.at_ms]):
        size = (WIDTH, round(frame.shape[0] * WIDTH / frame.shape[1]))
        picture = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        words = np.full((4 * LINE, WIDTH, 3), BACKGROUND, np.uint8)
        colour = RED if cell.alert else INK
        for number, line in enumerate(textwrap.wrap(cell.text, 44)[:4]):
            place = (2, LINE * (number + 1) - 5)
            cv2.putText(words, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)
        return np.vstack([picture, words])
    return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Watch, print the table, draw the sheets."""
    parser = argparse.ArgumentParser(description="Captions of real footage beside its pictures.")
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--data", type=Path, default=data_root())
    parser.add_argument("--split", choices=("val", "train"), default="val")
    parser.add_argument("--model", help="name or path of a checkpoint")
    parser.add_argument("--cameras", type=int, default=8, help="videos watched at once")
    parser.add_argument("--sheets", type=Path, help="folder for the pictures")
    options = parser.parse_args(arguments)
    chosen = ["--model", options.model] if options.model else []
    with tempfile.TemporaryDirectory() as folder:
        videos = list(watched(footage(options, Path(folder)), options.cameras, chosen))
        print(f"model {next((c['model'] for v in videos for c in v.captions), 'none')}\n")
        print("| video | known | captions | different | most often | alerts |\n|" + "---|" * 6)
        print("\n".join(video.row() for video in videos))
        if options.sheets:
            options.sheets.mkdir(parents=True, exist_ok=True)
            for name, cells in sheets(videos):
                path = options.sheets / f"{name}.jpg"
                cv2.imwrite(str(path), drawn(cells), [cv2.IMWRITE_JPEG_QUALITY, 80])


if __name__ == "__main__":
    main()
