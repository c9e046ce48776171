"""``rules``: try rules on captions, compare two rules files, choose thresholds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipeline.alerts import encode_alert
from pipeline.commands.calibrate import calibrate_command
from pipeline.commands.common import SHIPPED_RULES
from pipeline.commands.stored import stored_captions
from pipeline.config import Config, load_config
from pipeline.messages import Caption
from pipeline.outputs.lines import to_json_line
from pipeline.rules import AlertDifference, RuleSet, compare, load_rules, replay
from pipeline.run_setup import camera_groups

__all__ = ["app"]

_HELP = """Try rules on captions, without model or Redis.

Example: watchword rules test --captions output --rules my-rules.yaml
"""
app = typer.Typer(help=_HELP, no_args_is_help=True)
app.command("calibrate")(calibrate_command)


@app.command("test")
def test(
    captions: Annotated[
        Path,
        typer.Option(
            help="Stored captions: the NAME.jsonl of a run, or its store or output folder."
        ),
    ],
    rules: Annotated[
        Path | None, typer.Option(help="A rules file; the shipped rules unless given.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="The rules as they were: print what changes.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="The run's configuration: its camera groups, its rules unless given."),
    ] = None,
    camera: Annotated[str, typer.Option(help="A name or glob.")] = "*",
    since: Annotated[str | None, typer.Option("--from", help="A time or an age (2h).")] = None,
    until: Annotated[str | None, typer.Option("--to", help="A time or an age (30m).")] = None,
) -> None:
    """Replay stored captions through rules and print the events they would raise.

    With --against, print what they would raise and the old rules would not, and the reverse.

    Examples: watchword rules test --captions out/gate.jsonl --rules my-rules.yaml

    watchword rules test --captions out --camera 'lobby*' --from 1d --rules my-rules.yaml
    """
    said = _told_if_none(stored_captions(captions, camera, since, until), captions)
    site = Config() if config is None else load_config(config)
    groups = camera_groups(site)
    new = load_rules(rules or site.rules.file or SHIPPED_RULES)
    _tell_of_zones(new)
    if against is not None:
        _differences(compare(said, load_rules(against), new, groups))
        return
    for seq, alert in enumerate(replay(said, new, groups), start=1):
        sys.stdout.write(to_json_line(encode_alert(replace(alert, seq=seq))))


def _told_if_none(captions: Iterator[Caption], file: Path) -> Iterator[Caption]:
    """Hand captions on, and say so where there are none: silence looks like quiet rules."""
    first = next(captions, None)
    if first is None:
        sys.stderr.write(f"no caption in {file} is of that camera and time\n")
        return
    yield first
    yield from captions


def _tell_of_zones(rules: RuleSet) -> None:
    """A caption line has the places of concepts, not where the model looked at each word."""
    if zoned := [rule.spec.name for rule in rules.rules if rule.zones]:
        sys.stderr.write(
            f"zones of {', '.join(zoned)}: stored captions hold the places of concepts, not of "
            "words, so a keyword counts here wherever it was seen\n"
        )


def _differences(found: AlertDifference) -> None:
    seq = 0
    for change in ("removed", "added", "moved"):
        for alert in getattr(found, change):
            seq += 1
            event = encode_alert(replace(alert, seq=seq))
            sys.stdout.write(to_json_line({"change": change, "event": event}))
    sys.stderr.write(
        f"{len(found.removed)} removed, {len(found.added)} added, {len(found.moved)} moved, "
        f"{found.kept} as before\n"
    )
