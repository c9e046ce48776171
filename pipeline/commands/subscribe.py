"""``subscribe``: follow alerts."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from pipeline.alerts import subscribe as follow
from pipeline.alerts.render import event_line
from pipeline.commands.common import RedisUrl, redis_of_alerts
from pipeline.redaction import redact_url

__all__ = ["subscribe"]


def subscribe(  # noqa: PLR0913
    redis_url: RedisUrl = None,
    camera: Annotated[str, typer.Option(help="A name or glob.")] = "*",
    rule: Annotated[str | None, typer.Option(help="The name of a rule; all unless given.")] = None,
    type: Annotated[
        str | None, typer.Option(help="An event type or glob, such as '*.started'.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="A time, an age (1h) or an id; from now on unless given.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="A consumer group: each alert goes to one of its members.")
    ] = None,
    consumer: Annotated[str, typer.Option(help="This member of the group.")] = "default",
    prefix: Annotated[str, typer.Option(help="Of the keys; `redis.prefix` of the run.")] = (
        "watchword"
    ),
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Follow alerts as they come, until Ctrl-C.

    Examples: watchword subscribe --since 1h

    watchword subscribe --camera 'lobby*' --type '*.started' --json

    watchword subscribe --group guards --consumer desk1
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    url = redis_of_alerts(redis_url)
    sys.stderr.write(f"following alerts on {redact_url(url)}\n")
    events = follow(
        url,
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
