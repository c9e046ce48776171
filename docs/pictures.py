"""Make the pictures of README anew: ``python docs/pictures.py [--videos FOLDER]``.

``demo.svg`` is what ``make demo`` prints; ``report.png`` the report of a run over two recordings in
that folder, as Chromium shows it: ``house_fire.mp4`` (FURG fire data set, CC0) and
``car_park_entry.mp4`` (Intel IoT sample videos, CC BY 4.0). To be done after new weights, so that
the pictures show what the program says now.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.text import Text

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
VIDEOS = ROOT.parent / "shared" / "data" / "videos"
RECORDINGS = {
    "yard": ("house_fire.mp4", "06-12-00"),
    "car-park": ("car_park_entry.mp4", "06-10-00"),
}
"""By the camera's name: the file, and when on a day in November it is said to have begun."""
_WIDTH, _WINDOW = 112, "1280,900"
_LISTS, _SHOWN = ("  output/", "20"), 3
"""How lines of files and of events begin, and how many of them are shown."""
_STYLES = (("$ ", "bold"), ("ALERT", "bold cyan"), ("alert over", "dim"), (" total", "bold"))


def picture_demo(file: Path) -> None:
    """Run the demo and draw what it prints: long lines cut, of long lists the beginning."""
    with tempfile.TemporaryDirectory() as folder:
        printed = _run("demo", "--output", folder).replace(folder, "output/demo")
    printed = re.sub(r"\S*/site-packages/", ".venv/.../", printed).replace(f"{ROOT}/", "")
    console = Console(record=True, width=_WIDTH, file=io.StringIO())
    for line in ["$ make demo", *_shortened(printed.splitlines())]:
        style = next((style for start, style in _STYLES if line.startswith(start)), "")
        console.print(Text(line, style=style), no_wrap=True, overflow="ellipsis")
    file.write_text(console.export_svg(title="make demo"), encoding="utf-8")


def _shortened(lines: list[str]) -> Iterator[str]:
    """Leave out what follows the third line of a list."""
    for kind, group in groupby(lines, lambda line: next(filter(line.startswith, _LISTS), None)):
        members = list(group)
        if kind is None or len(members) <= _SHOWN:
            yield from members
        else:
            yield from [*members[:_SHOWN], f"  ... and {len(members) - _SHOWN} more"]


def picture_report(file: Path, videos: Path) -> None:
    """Run over the recordings, and take a picture of the report."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if browser is None:
        raise SystemExit("Chromium is not installed")
    with tempfile.TemporaryDirectory() as folder:
        sources = []
        for camera, (name, begun) in RECORDINGS.items():
            recording = Path(folder) / f"{camera}_2026-11-23_{begun}.mp4"
            recording.symlink_to(videos / name)
            sources.append(f"{camera}={recording}")
        _run("run", *sources, "--output", folder, "--format", "report")
        page = (Path(folder) / "report.html").as_uri()
        shot = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--screenshot={file}",
        ]
        subprocess.run(
            [browser, *shot, f"--window-size={_WINDOW}", page],
            check=True,
            stderr=subprocess.DEVNULL,
        )


def _run(*arguments: str) -> str:
    command = [sys.executable, str(ROOT / "run_stream.py"), *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, default=VIDEOS)
    parser.add_argument("--only", choices=("demo", "report"), help="one of the two")
    given = parser.parse_args()
    if given.only != "report":
        picture_demo(DOCS / "demo.svg")
    if given.only != "demo":
        picture_report(DOCS / "report.png", given.videos.resolve())
