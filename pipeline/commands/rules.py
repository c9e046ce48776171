"""``rules``: try rules on captions, compare two rules files, choose thresholds."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipeline.alerts import encode_alert
from pipeline.commands.calibrate import calibrate_command
from pipeline.commands.common import SHIPPED_RULES
from pipeline.outputs.lines import to_json_line
from pipeline.rules import compare, load_rules, read_captions, replay

__all__ = ["app"]

app = typer.Typer(help="Try rules on captions.", no_args_is_help=True)
app.command("calibrate")(calibrate_command)


@app.command("test")
def test(
    captions: Annotated[Path, typer.Option(help="Stored captions: the NAME.jsonl of a run.")],
    rules: Annotated[
        Path | None, typer.Option(help="A rules file; the shipped rules unless given.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="The rules as they were: print what changes.")
    ] = None,
) -> None:
    """Replay stored captions through rules and print the events they would raise.

    With --against, print what they would raise and the old rules would not, and the reverse.

    Example: watchword rules test --captions out/gate.jsonl --rules my-rules.yaml
    """
    if against is not None:
        _differences(captions, against, rules or SHIPPED_RULES)
        return
    alerts = replay(read_captions(captions), load_rules(rules or SHIPPED_RULES))
    for seq, alert in enumerate(alerts, start=1):
        sys.stdout.write(to_json_line(encode_alert(replace(alert, seq=seq))))


def _differences(captions: Path, before: Path, after: Path) -> None:
    found = compare(read_captions(captions), load_rules(before), load_rules(after))
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
