"""The command line of Watchword: parse, load the configuration, assemble, run, exit code."""

from __future__ import annotations

import difflib
import importlib.metadata
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

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
from pipeline.log_lines import LogLines
from pipeline.outputs import OutputError
from pipeline.redaction import RedactingFilter, log_uncaught, redact
from pipeline.slots import SharedMemoryFull
from pipeline.sources import SourceError
from pipeline.store import StoreError
from pipeline.supervisor import StageFailed
from pipeline.yaml_models import ConfigError

__all__ = ["app", "main"]

app = typer.Typer(
    name="watchword",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"watchword {importlib.metadata.version('watchword')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Say which it is."),
    ] = False,
) -> None:
    """Watches cameras and says in words what happens.

    Examples: watchword run lobby=rtsp://user:password@10.0.0.5/stream

    watchword run recordings/*.mp4 --output out --format vtt,report

    watchword subscribe --since 1h

    Every command has examples: watchword COMMAND --help
    """


for command in (run, demo, subscribe, search, check, doctor):
    app.command()(command)
app.add_typer(rules.app, name="rules")
app.add_typer(alerts.app, name="alerts")
app.add_typer(models.app, name="models")

_COMMANDS = frozenset(typer.main.get_group(app).commands)
_OF_THE_APP = ("--help", "--version", "--install-", "--show-")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: every error becomes one line and an exit code."""
    sys.exit(_guarded(list(sys.argv[1:] if arguments is None else arguments)))


def _guarded(arguments: list[str]) -> int:
    code, said = _run(arguments)
    for handler in logging.getLogger().handlers:
        handler.flush()  # what was logged comes before how it ended
    for line in redact(said).splitlines():
        sys.stderr.write(f"watchword: {line}\n")
    return code


def _run(arguments: list[str]) -> tuple[int, str]:
    """Run a command: its exit code, and what is to be said of how it ended."""
    said = ""
    try:
        _set_up_logging()
        left = app(_with_a_command(arguments), standalone_mode=False)
        code = left if isinstance(left, int) else ExitCode.DONE
    except SystemExit as left_by:  # how completion ends
        code = left_by.code if isinstance(left_by.code, int) else ExitCode.FAILED
    except (KeyboardInterrupt, typer.Abort):
        code = ExitCode.INTERRUPTED
    except typer.TyperException as error:
        said, code = _as_one_line(error), ExitCode.WRONG_USE
    except (ConfigError, SourceError, OutputError, WrongUse, ModelsError, AuditError) as error:
        said, code = str(error), ExitCode.WRONG_USE
    except CaptionerError as error:
        said = str(error)
        code = ExitCode.WRONG_USE if "no model" in said else ExitCode.FAILED
    except (StageFailed, StoreError, EmbeddedRedisError, SharedMemoryFull) as error:
        said, code = str(error), ExitCode.FAILED
    return code, said


def _as_one_line(error: typer.TyperException) -> str:
    """Tell wrong use in a sentence, and where to read on; empty where the help was shown."""
    context = getattr(error, "ctx", None)
    said = error.format_message().rstrip(".")
    return f"{said}; see '{context.command_path} --help'" if said and context else said


def _with_a_command(given: list[str]) -> list[str]:
    """Bare sources mean ``run``; a command that is merely misspelt does not."""
    if not given or given[0] in _COMMANDS or given[0].startswith(_OF_THE_APP):
        return given
    if given[0].isalpha() and not Path(given[0]).exists():
        near = difflib.get_close_matches(given[0], _COMMANDS, 1)
        also = f"did you mean {near[0]!r}?" if near else "`watchword --help` has the commands"
        raise WrongUse(f"{given[0]!r} is no command and no file; {also}")
    return ["run", *given]


def _set_up_logging() -> None:
    handler = LogLines()
    handler.addFilter(RedactingFilter())
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    level = os.environ.get("WATCHWORD_LOG", "WARNING").upper()
    if not isinstance(logging.getLevelName(level), int):
        raise WrongUse(f"WATCHWORD_LOG={level}: give DEBUG, INFO, WARNING or ERROR")
    logging.basicConfig(level=level, handlers=[handler])
    log_uncaught()


if __name__ == "__main__":
    main()
