"""The command line of Watchword: parse, load the configuration, assemble, run, exit code."""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import typer

from models import commands as models
from models.audit import AuditError
from models.commands import ModelsError
from pipeline.alerts.server import EmbeddedRedisError
from pipeline.captioner import CaptionerError
from pipeline.commands import alerts, rules
from pipeline.commands.check import check
from pipeline.commands.common import ExitCode, WrongUse
from pipeline.commands.demo import demo
from pipeline.commands.doctor import doctor
from pipeline.commands.run import run
from pipeline.commands.search import search
from pipeline.commands.subscribe import subscribe
from pipeline.config import ConfigError
from pipeline.outputs import OutputError
from pipeline.redaction import RedactingFilter, log_uncaught, redact
from pipeline.sources import SourceError
from pipeline.store import StoreError
from pipeline.supervisor import StageFailed

__all__ = ["app", "main"]

app = typer.Typer(
    name="watchword",
    help="Watches cameras and says in words what happens.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (run, demo, subscribe, search, check, doctor):
    app.command()(command)
app.add_typer(rules.app, name="rules")
app.add_typer(alerts.app, name="alerts")
app.add_typer(models.app, name="models")

_COMMANDS = frozenset(typer.main.get_group(app).commands)
_OF_THE_APP = ("--help", "-h", "--install-", "--show-")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: every error becomes one line and an exit code."""
    sys.exit(_guarded(list(sys.argv[1:] if arguments is None else arguments)))


def _guarded(arguments: list[str]) -> int:
    try:
        _set_up_logging()
        app(_with_a_command(arguments), standalone_mode=True)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else ExitCode.FAILED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except (ConfigError, SourceError, OutputError, WrongUse, ModelsError, AuditError) as error:
        return _complain(error, ExitCode.WRONG_USE)
    except CaptionerError as error:
        wrong = "no model" in str(error)
        return _complain(error, ExitCode.WRONG_USE if wrong else ExitCode.FAILED)
    except (StageFailed, StoreError, EmbeddedRedisError) as error:
        return _complain(error, ExitCode.FAILED)
    return ExitCode.DONE


def _with_a_command(given: list[str]) -> list[str]:
    """Bare sources mean ``run``; a command that is merely misspelt does not."""
    if not given or given[0] in _COMMANDS or given[0].startswith(_OF_THE_APP):
        return given
    near = difflib.get_close_matches(given[0], _COMMANDS, 1)
    if near and given[0].isalpha() and not Path(given[0]).exists():
        raise WrongUse(f"{given[0]!r} is no command and no file; did you mean {near[0]!r}?")
    return ["run", *given]


def _complain(error: Exception, code: ExitCode) -> int:
    for line in redact(str(error)).splitlines():
        sys.stderr.write(f"watchword: {line}\n")
    return code


class _StderrAsItIs(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is now: a live table puts such lines above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _set_up_logging() -> None:
    handler = _StderrAsItIs()
    handler.addFilter(RedactingFilter())
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    level = os.environ.get("WATCHWORD_LOG", "WARNING").upper()
    if not isinstance(logging.getLevelName(level), int):
        raise WrongUse(f"WATCHWORD_LOG={level}: give DEBUG, INFO, WARNING or ERROR")
    logging.basicConfig(level=level, handlers=[handler])
    log_uncaught()


if __name__ == "__main__":
    main()
