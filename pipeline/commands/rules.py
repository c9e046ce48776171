"""``rules``: try rules on captions."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipeline.alerts import encode_alert
from pipeline.commands.common import SHIPPED_RULES
from pipeline.outputs.lines import to_json_line
from pipeline.rules import load_rules, read_captions, replay

__all__ = ["app"]

app = typer.Typer(help="Try rules on captions.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep ``test`` a command of its own even while it is the only one."""


@app.command("test")
def test(
    captions: Annotated[Path, typer.Option(help="Stored captions, JSONL.")],
    rules: Annotated[Path | None, typer.Option(help="A rules file.")] = None,
) -> None:
    """Replay stored captions through rules and print the events they would raise."""
    alerts = replay(read_captions(captions), load_rules(rules or SHIPPED_RULES))
    for seq, alert in enumerate(alerts, start=1):
        sys.stdout.write(to_json_line(encode_alert(replace(alert, seq=seq))))
