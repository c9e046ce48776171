"""What the commands share: exit codes, shipped files, and the error a user can mend."""

from __future__ import annotations

import sys
from enum import IntEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.alerts.server import running_servers
from pipeline.errors import WrongUse
from pipeline.redaction import redact, redact_url
from pipeline.run_setup import SHIPPED_RULES

__all__ = [
    "DEMO_RULES",
    "SHIPPED_RULES",
    "ExitCode",
    "RedisUrl",
    "WrongUse",
    "redis_hint",
    "redis_of_alerts",
]

RedisUrl = Annotated[
    str | None,
    typer.Option(
        envvar="WATCHWORD_REDIS_URL",
        help="Where alerts are; unless given, the server of the newest run of this user, "
        "else Redis on this machine.",
        show_default=False,
    ),
]
_USUAL_REDIS = "redis://127.0.0.1:6379/0"

_CONFIGS = Path(__file__).parents[2] / "configs"
DEMO_RULES = _CONFIGS / "demo_rules.yaml"


class ExitCode(IntEnum):
    """How a command ends; scripts rely on these."""

    DONE = 0
    FAILED = 1
    WRONG_USE = 2
    INTERRUPTED = 130


def redis_of_alerts(given: str | None) -> str:
    """Return the URL that was given, else that of a run on this machine, else Redis' usual one."""
    if given:
        return given
    found = running_servers()
    if len(found) > 1:
        others = ", ".join(found[1:])
        sys.stderr.write(
            f"{len(found)} runs are going on here; this is the newest, "
            f"with --redis-url also {others}\n"
        )
    return next(iter(found), _USUAL_REDIS)


def redis_hint(url: str, error: Exception) -> str:
    """Say in a sentence that Redis does not answer, and what to do."""
    said = redact(str(error)).rstrip(".")
    return f"Redis at {redact_url(url)}: {said}; is a run going on, or its --redis-url another?"
