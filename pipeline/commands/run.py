"""``run``: the main job."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from pipeline.assembly import Printer, Run, camera_infos
from pipeline.commands.common import ExitCode, WrongUse
from pipeline.config import Config, load_config
from pipeline.outputs import RunSummary
from pipeline.outputs.terminal import TerminalView
from pipeline.redaction import redact, redact_url
from pipeline.reload import Reloader
from pipeline.run_setup import Setup, read_setup
from pipeline.yaml_models import problem_text

__all__ = ["merged", "run", "watch"]


def run(  # noqa: PLR0913 - one parameter an option, as the command-line library wants them
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="[NAME=]SOURCE …: a file, a glob, a folder of videos or of pictures, rtsp://…, "
            "http(s)://… or the number of a camera of this machine.",
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A configuration file.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Name or path of a checkpoint; see `models list`.")
    ] = None,
    beam_size: Annotated[
        int | None,
        typer.Option(min=1, max=20, help="Sentences kept while captioning (3); 1 is fastest."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    runtime: Annotated[
        str | None, typer.Option(help="auto, eager, openvino[-bf16][-int8] or cuda-graph.")
    ] = None,
    analysis_fps: Annotated[float | None, typer.Option(help="Frames looked at a second (2.5).")] = (
        None
    ),
    captions_per_second: Annotated[
        float | None, typer.Option(help="Captions a second of each camera (1).")
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(help="A rules file; the shipped rules unless given.")
    ] = None,
    redis_url: Annotated[str | None, typer.Option(help="Your Redis; else our own.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for files and the store (output).")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="Any of vtt, srt, jsonl, coco, video, report, with commas (vtt,jsonl)."),
    ] = None,
    start_time: Annotated[
        str | None, typer.Option(help="When recordings began whose names do not say it.")
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option(help="Of times in recordings' names: Europe/Paris.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with recordings where a killed run stopped.")
    ] = False,
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve /metrics, /healthz, /readyz there; 0: any free port.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Alerts only.")] = False,
) -> None:
    """Caption cameras and recordings, and raise alerts.

    Examples: watchword run lobby=rtsp://user:password@10.0.0.5/stream

    watchword run "recordings/*.mp4" --output out --format vtt,report
    """
    overrides: dict[str, dict[str, object]] = {
        "model": {"name": model, "beam_size": beam_size, "device": device, "runtime": runtime},
        "capture": {
            "analysis_fps": analysis_fps,
            "captions_per_second": captions_per_second,
            "time_zone": time_zone,
        },
        "rules": {"file": None if rules is None else str(rules)},
        "redis": {"url": redis_url},
        "output": {
            "directory": None if output is None else str(output),
            "formats": None if format is None else tuple(format.split(",")),
            "resume": resume or None,
        },
        "metrics": {"port": metrics_port},
        "store": {"path": None if output is None else str(output / "watchword.sqlite3")},
    }

    def read() -> Setup:
        loaded = Config() if config is None else load_config(config)
        return read_setup(merged(loaded, overrides), config, sources or [], start_time)

    raise typer.Exit(watch(read, as_json=json, quiet=quiet))


def watch(read: Callable[[], Setup], *, as_json: bool, quiet: bool) -> ExitCode:
    """Watch until the recordings end or somebody stops it, and say how it ended.

    ``read`` gives what the run is made of; it is asked again for every reload.
    """
    setup = read()
    if not setup.specs:
        raise WrongUse("nothing to watch: give a SOURCE, or --config with cameras")
    view = Printer() if as_json else TerminalView(Console(), camera_infos(setup.specs), quiet)
    with _stops_like_ctrl_c(), ExitStack() as stack:
        with _told_on_a_terminal("loading the model"):
            this_run = stack.enter_context(Run(setup, view))
        _take_signals(this_run, this_run.reload_from(read))
        sys.stderr.write(
            f"model {this_run.ready.identity} on {this_run.ready.device}; "
            f"alerts on {redact_url(this_run.redis_url)}\n"
        )
        summary = _go(this_run, view)
        failed = this_run.errors()
    return _how_it_ended(summary, failed)


def _go(this_run: Run, view: Printer | TerminalView) -> RunSummary:
    if isinstance(view, Printer):
        summary = this_run.go()
        view.line(summary.to_json())
    else:
        with view:
            summary = this_run.go()
        view.summary(summary)
    return summary


def _how_it_ended(summary: RunSummary, failed: Mapping[str, str]) -> ExitCode:
    """Say in one line each what did not work, and choose the exit code."""
    problems = [*failed.values(), *([summary.error] if summary.error else [])]
    for sentence in problems:
        sys.stderr.write(f"watchword: {redact(sentence)}\n")
    if summary.interrupted and not summary.error:
        return ExitCode.INTERRUPTED
    return ExitCode.FAILED if problems else ExitCode.DONE


def _take_signals(this_run: Run, reloader: Reloader) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: this_run.request_stop())
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: reloader.request())


def _told_on_a_terminal(text: str) -> AbstractContextManager[object]:
    """A spinner while something takes seconds; a file or pipe gets no such line."""
    return Console(stderr=True).status(text) if sys.stderr.isatty() else nullcontext()


@contextmanager
def _stops_like_ctrl_c() -> Iterator[None]:
    """Until the run can drain, a stop frees all that was started; afterwards all is as it was.

    A request to reload is left to the look at the files that comes once the run goes.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP"):
        numbers.append(signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def merged(config: Config, overrides: dict[str, dict[str, object]]) -> Config:
    """Overlay what the command line sets; values are checked by the same schema."""
    data = config.model_dump(exclude_unset=True)  # what a camera leaves unset stays the file's
    for section, values in overrides.items():
        given = {key: value for key, value in values.items() if value is not None}
        data.setdefault(section, {}).update(given)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise WrongUse(f"{_option(first['loc'])} {problem_text(first)}") from None


def _option(location: tuple[str | int, ...]) -> str:
    """Name the option that sets ``location`` in a configuration."""
    key = [part for part in location if isinstance(part, str)][-2:]
    named = {"formats": "format", "directory": "output", "file": "rules", "url": "redis-url"}
    name = "model" if key == ["model", "name"] else named.get(key[-1], key[-1])
    return f"--{name.replace('_', '-')}:"
