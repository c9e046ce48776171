"""``watchword alerts``: look at alerts and answer them."""

from __future__ import annotations

import getpass
import json as json_module
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Annotated, Any, TypeVar

import redis
import typer

from pipeline.alerts import AlertRecord, Reviewer, ReviewError, encode_review
from pipeline.alerts.redis_client import connect
from pipeline.alerts.review import UnknownAlertError
from pipeline.alerts.server import running_servers
from pipeline.commands.common import RedisUrl, redis_hint, redis_of_alerts
from pipeline.errors import WrongUse
from pipeline.messages import Review
from pipeline.moments import parse_age
from pipeline.outputs.lines import printable

__all__ = ["app"]

app = typer.Typer(
    help="""Look at alerts and answer them; subscribers hear of it.

Examples: watchword alerts list --status open

watchword alerts ack 3f2a --note 'on my way'
""",
    no_args_is_help=True,
)

ResultT = TypeVar("ResultT")

Prefix = Annotated[str, typer.Option(help="Of the keys; `redis.prefix` of the run.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
AlertId = Annotated[str, typer.Argument(help="The alert's id, or the beginning of it.")]
By = Annotated[str | None, typer.Option(help="Who answers; the user's name unless given.")]
Note = Annotated[str, typer.Option(help="A remark that is kept and published.")]

_TIMEOUT_S = 5.0
_STATUSES = ("open", "over", "escalated", "acknowledged", "snoozed", "resolved")


@app.command("list")
def list_alerts(
    camera: Annotated[str, typer.Option(help="A name or glob.")] = "*",
    rule: Annotated[str, typer.Option(help="A name or glob.")] = "*",
    status: Annotated[
        str | None,
        typer.Option(
            help="open, over, escalated (and not answered), acknowledged, snoozed or resolved; "
            "all unless given."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    redis_url: RedisUrl = None,
    prefix: Prefix = "watchword",
    json: Json = False,
) -> None:
    """List alerts, the newest first, with what people have said about them.

    Example: watchword alerts list --status open --camera 'lobby*'
    """
    if status not in (None, *_STATUSES):
        raise WrongUse(f"--status {status!r} is none of {', '.join(_STATUSES)}")
    shown = 0
    for record in _with(redis_url, prefix, lambda reviewer: reviewer.list()):
        if (
            fnmatchcase(record.data["camera"], camera)
            and fnmatchcase(record.data["rule"], rule)
            and status in (None, record.status, _escalated(record))
        ):
            print(_json(record.to_json()) if json else _line(record))
            shown += 1
            if shown == limit:
                break


@app.command()
def show(
    alert_id: AlertId,
    redis_url: RedisUrl = None,
    prefix: Prefix = "watchword",
    json: Json = False,
) -> None:
    """Show all that is known of one alert.

    Example: watchword alerts show 3f2a
    """
    record = _with(redis_url, prefix, lambda reviewer: reviewer.show(alert_id), alert_id)
    if json:
        print(_json(record.to_json()))
        return
    print(_line(record))
    for name, value in {**record.data, "review": record.review}.items():
        text = value if isinstance(value, str) else json_module.dumps(value, ensure_ascii=False)
        print(f"  {name}: {printable(text)}")


def _answer(give: Callable[[Reviewer, str, str, str], Review]) -> Callable[..., None]:
    """Make a command that gives one alert an answer: by whom, with what note."""

    def command(
        alert_id: AlertId,
        by: By = None,
        note: Note = "",
        redis_url: RedisUrl = None,
        prefix: Prefix = "watchword",
        json: Json = False,
    ) -> None:
        who = _who(by)

        def answer(reviewer: Reviewer) -> Review:
            return give(reviewer, alert_id, who, note)

        _say(_with(redis_url, prefix, answer, alert_id), json)

    return command


_ACK = """Acknowledge an alert: somebody has seen it, and it escalates no more.

Example: watchword alerts ack 3f2a --note 'on my way'
"""
_RESOLVE = """Resolve an alert: nothing is left to do about it.

Example: watchword alerts resolve 3f2a
"""
app.command("ack", help=_ACK)(_answer(Reviewer.acknowledge))
app.command("resolve", help=_RESOLVE)(_answer(Reviewer.resolve))


@app.command()
def snooze(  # noqa: PLR0913 - one parameter an option, as the command-line library wants them
    alert_id: Annotated[
        str | None, typer.Argument(help="An alert: its rule is snoozed on its camera.")
    ] = None,
    duration: Annotated[str, typer.Option("--for", help="How long: 90s, 15m, 1h, 2d.")] = "30m",
    camera: Annotated[str | None, typer.Option(help="Or cameras, a name or glob ...")] = None,
    rule: Annotated[str | None, typer.Option(help="... and rules, a name or glob.")] = None,
    by: By = None,
    note: Note = "",
    redis_url: RedisUrl = None,
    prefix: Prefix = "watchword",
    json: Json = False,
) -> None:
    """Start no new alerts for a while; what is open goes on. `--for 0s` takes a snooze back.

    Example: watchword alerts snooze --camera 'yard*' --rule loitering --for 2h
    """
    duration_s = parse_age(duration)
    if (alert_id is None) == (camera is None and rule is None):
        raise WrongUse("give the id of an alert, or --camera and --rule (either may be left out)")
    who = _who(by)

    def change(reviewer: Reviewer) -> Review:
        if alert_id is not None:
            return reviewer.snooze(alert_id, duration_s, who, note)
        return reviewer.snooze_rule(camera or "*", rule or "*", duration_s, who, note)

    _say(_with(redis_url, prefix, change, alert_id), json)


def _with(
    redis_url: str | None,
    prefix: str,
    call: Callable[[Reviewer], ResultT],
    alert_id: str | None = None,
) -> ResultT:
    """Call with a reviewer; what goes wrong becomes one line and an exit code."""
    url = redis_url or _that_knows(alert_id, prefix) or redis_of_alerts(None)
    with connect(url, _TIMEOUT_S) as client:
        try:
            return call(Reviewer(client, prefix))
        except ReviewError as error:
            sys.stderr.write(f"watchword: {error}\n")
            raise typer.Exit(1) from None
        except redis.RedisError as error:
            sys.stderr.write(f"watchword: {redis_hint(url, error)}\n")
            raise typer.Exit(1) from None


def _that_knows(alert_id: str | None, prefix: str) -> str | None:
    """Of several runs on this machine the newest that has this alert, or None."""
    servers = [] if alert_id is None else running_servers()
    for url in servers if len(servers) > 1 else []:
        with connect(url, _TIMEOUT_S) as client:
            try:
                Reviewer(client, prefix).show(str(alert_id))
            except (UnknownAlertError, redis.RedisError):
                continue
            except ReviewError:
                return url  # it has more than one that begins so, which is to be told
            return url
    return None


def _who(by: str | None) -> str:
    if by is not None:
        return by
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"


def _say(review: Review, as_json: bool) -> None:
    event = encode_review(review)
    if as_json:
        print(_json(event))
        return
    state = review.state.value
    if review.until is not None:
        taken_back = review.until <= review.time
        state = "snoozed no more" if taken_back else f"snoozed until {event['data']['until']}"
    print(f"{review.alert_id}  {state}  {review.camera}  {review.rule}")


def _line(record: AlertRecord) -> str:
    data = record.data
    status = ", ".join(filter(None, (record.status, _escalated(record))))
    return printable(
        f"{record.id}  {status:<15}  {data['severity']:<8}  {data['first_seen']}  "
        f"{data['camera']}  {data['rule']}: {data['caption']}"
    )


def _escalated(record: AlertRecord) -> str:
    """Whether an alert waits, said again louder, for somebody to answer."""
    return "escalated" if record.escalated and record.review_state is None else ""


def _json(record: dict[str, Any]) -> str:
    return json_module.dumps(record, ensure_ascii=False)
