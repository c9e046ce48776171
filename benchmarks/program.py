"""Runs the whole program on files, as a user would, and reads what it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

__all__ = ["Printed", "streamed_ids", "watch"]

RUN_STREAM = Path(__file__).parent.parent / "run_stream.py"


@dataclass(frozen=True, slots=True)
class Printed:
    """Lines of ``run --json`` by kind: captions, alerts (CloudEvents) and the summary."""

    captions: tuple[dict[str, Any], ...]
    alerts: tuple[dict[str, Any], ...]
    summary: dict[str, Any]


def watch(sources: Mapping[str, Path], output: Path, options: Sequence[str] = ()) -> Printed:
    """Watch ``sources`` (camera name to file) to their end.

    ``output`` must be new: a store that knows a recording's alerts does not send them again.

    Raises:
        RuntimeError: The program left with an exit code other than 0; with what it said.

    """
    named = [f"{name}={path}" for name, path in sources.items()]
    command = [sys.executable, str(RUN_STREAM), "run", *named, "--json", "--output", str(output)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return Printed(
        captions=tuple(line for line in lines if line["type"] == "caption"),
        alerts=tuple(line for line in lines if line["type"].startswith("watchword.alert.")),
        summary=next(line for line in lines if line["type"] == "summary"),
    )


def streamed_ids(url: str) -> list[str]:
    """Ids of every event in the alert stream of a Redis, oldest first, doubled ones too."""
    with redis.Redis.from_url(url) as client:
        entries: Any = client.xrange("watchword:alerts")
    return [json.loads(fields[b"event"])["id"] for _, fields in entries]
