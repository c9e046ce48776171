"""``subscribe``: follow alerts."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from pipeline.alerts import subscribe as follow
from pipeline.alerts.render import event_line

__all__ = ["subscribe"]


def subscribe(  # noqa: PLR0913
    redis_url: Annotated[
        str, typer.Option(envvar="WATCHWORD_REDIS_URL", help="Where alerts are.")
    ] = "redis://127.0.0.1:6379/0",
    camera: Annotated[str, typer.Option(help="A name or glob.")] = "*",
    rule: Annotated[str | None, typer.Option()] = None,
    type: Annotated[str | None, typer.Option(help="An event type or glob.")] = None,
    since: Annotated[str | None, typer.Option(help="A time, an age (1h) or an id.")] = None,
    group: Annotated[str | None, typer.Option(help="A consumer group.")] = None,
    consumer: Annotated[str, typer.Option()] = "default",
    prefix: Annotated[str, typer.Option(help="Of the keys, as the run has it.")] = "watchword",
    json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Follow alerts as they come.

    Example: watchword subscribe --camera 'lobby*' --since 1h --json
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    events = follow(
        redis_url,
        cameras=camera,
        rule=rule,
        type=type,
        since=since,
        group=group,
        consumer=consumer,
        prefix=prefix,
    )
    for event in events:
        print(event_line(event, as_json=json), flush=True)
