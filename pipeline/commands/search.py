"""``search``: find a moment by its words."""

from __future__ import annotations

import json as json_module
import os
import shutil
import subprocess
import sys
import webbrowser
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import typer
from rich.console import Console
from rich.text import Text

from pipeline.commands.common import ExitCode, WrongUse
from pipeline.commands.found import Moment, moments
from pipeline.commands.stored import bounds, store_file
from pipeline.config import Config
from pipeline.outputs.lines import to_json_line, utc_moment, utc_text
from pipeline.store import Archive, Found, SearchQuery

__all__ = ["search"]

_STORE = Path(Config().store.path)
_BEFORE_S = 2.0
"""Playing starts a little before the caption, whose window looks back."""
_CAPTIONS_A_MOMENT, _MOST_CAPTIONS = 4, 10_000
"""So many captions are looked up for each moment that is asked for, and in all."""
_ROUNDING = timedelta(milliseconds=1)
"""Reports give times in whole milliseconds."""


def search(  # noqa: PLR0913 - one parameter an option
    query: Annotated[str, typer.Argument(help='Words, "a phrase", motor*, fire OR smoke, -dog.')],
    store: Annotated[
        Path, typer.Option(help="The output folder of a run, or its store file.")
    ] = _STORE,
    camera: Annotated[str, typer.Option(help="A name or glob.")] = "*",
    since: Annotated[str | None, typer.Option("--from", help="A time or an age (2h).")] = None,
    until: Annotated[str | None, typer.Option("--to", help="A time or an age (30m).")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The best so many moments.")] = 20,
    play: Annotated[
        bool, typer.Option("--play", help="Open the best at its moment: the report, else ffplay.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Search what cameras and recordings showed, best first; each moment once.

    Examples: watchword search "person lying" --camera "lobby*" --from 1d --play

    watchword search '"red car" -parked' --store out --from "2026-11-23 06:00" --json
    """
    file = store_file(store)
    if not file.is_file():
        raise WrongUse(
            f"{file}: no store there; give a run's --output as --store, or run one first"
        )
    archive = Archive(file)
    try:
        zone = archive.time_zone(camera)
        captions = min(_MOST_CAPTIONS, limit * _CAPTIONS_A_MOMENT)
        wanted = SearchQuery(query, camera, *bounds(since, until, zone), captions)
        found = moments(archive.search(wanted))[:limit]
        report = archive.report(found[0].best.camera) if found and play else None
    finally:
        archive.close()
    for each in found:
        _print(each, None if zone is None else ZoneInfo(zone), json)
    if not found:
        sys.stderr.write(f"nothing in {file} matches\n")
    elif play:
        raise typer.Exit(_play(found[0].best, report))


def _print(moment: Moment, zone: ZoneInfo | None, as_json: bool) -> None:
    found = moment.best
    if as_json:
        sys.stdout.write(
            to_json_line(
                {
                    "camera": found.camera,
                    "time": utc_text(found.time),
                    "media_time_s": found.media_time_s,
                    "text": found.text,
                    "snippet": found.snippet,
                    "recording": None if found.recording is None else str(found.recording),
                    "first": utc_text(moment.first),
                    "last": utc_text(moment.last),
                    "captions": moment.captions,
                }
            )
        )
        return
    when = found.time.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")
    at = "" if found.media_time_s is None else f"{_clock(found.media_time_s)} "
    line = Text(f"{when}  {found.camera}  {at}")
    for index, part in enumerate(found.snippet.replace("]", "[").split("[")):
        line.append(part, "bold" if index % 2 else "")
    if moment.captions > 1:
        first, last = (
            at.astimezone(zone).strftime("%H:%M:%S") for at in (moment.first, moment.last)
        )
        line.append(f"  ({moment.captions} captions, {first} to {last})", "dim")
    Console(soft_wrap=True).print(line)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _play(found: Found, report: Path | None) -> ExitCode:
    """Open the report at the moment, where one tells of it and a browser is there; else play."""
    if report is not None and _tells_of(report, found):
        at = f"{quote(found.camera, safe='')}@{quote(found.time.isoformat())}"
        if webbrowser.open(f"{report.as_uri()}#at={at}"):
            sys.stderr.write(f"opened {report}\n")
            return ExitCode.DONE
    if found.recording is None or found.media_time_s is None:
        raise WrongUse(
            f"{found.camera} was live, so there is no recording to play, and no report tells of "
            "that moment (or no browser is here); run with --format report for one"
        )
    if not found.recording.is_file():
        raise WrongUse(f"{found.recording} is not there any more")
    start_s = max(0.0, found.media_time_s - _BEFORE_S)
    player, place = shutil.which("ffplay"), f"open {found.recording} at {start_s:.1f} s"
    if player is None:
        raise WrongUse(f"ffplay is not installed; {place}")
    if not _has_screen():
        raise WrongUse(f"there is no screen to play on; {place} on a machine that has one")
    command = [player, "-loglevel", "error", "-ss", f"{start_s:.2f}", str(found.recording)]
    return (
        ExitCode.DONE if subprocess.run(command, check=False).returncode == 0 else ExitCode.FAILED
    )


def _has_screen() -> bool:
    """Whether a window can open: without one ffplay would play unseen and never end."""
    servers = ("DISPLAY", "WAYLAND_DISPLAY")
    return not sys.platform.startswith("linux") or any(map(os.environ.get, servers))


def _tells_of(report: Path, found: Found) -> bool:
    """Whether the report, which a later run may have written anew, shows that moment."""
    try:
        told = json_module.loads(report.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return report.is_file() and any(
        _covers(scene, found.time)
        for camera in told["cameras"]
        if camera["camera"] == found.camera
        for scene in camera["scenes"]
    )


def _covers(scene: dict[str, Any], moment: datetime) -> bool:
    if scene["time"] is None:
        return False
    start = utc_moment(scene["time"])
    lasts = timedelta(seconds=scene["end_s"] - scene["start_s"])
    return start - _ROUNDING <= moment <= start + lasts + _ROUNDING
