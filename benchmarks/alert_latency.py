"""From the grab of a frame to its alert at a subscriber, at a given load.

    python -m benchmarks.alert_latency [--load 0.7] [--cameras 8] [--seconds 60]

RTSP cameras loop a real clip; a rule fires on every caption, so every caption becomes an event.
First the program is asked for more captions than it can give, which measures its capacity; then for
``load`` of that, while a subscriber holds the time each event came against its frame's. Both are
this machine's wall clock, so the figure holds grab, queues, encoder, search, rules, outbox, Redis
and subscriber. Run it on a quiet machine: it measures whatever else runs, too.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import yaml

from benchmarks.clips import light_clip
from benchmarks.measure import environment
from benchmarks.program import RUN_STREAM
from pipeline.alerts import EmbeddedRedis, subscribe
from tests.rtsp_server import RtspServer

_START_S, _SETTLE_S = 300.0, 5.0
_MORE_THAN_IT_CAN = 30.0
"""Captions a second and camera; the clip's own rate bounds what there is to caption."""
_RULES = """
rules:
  - name: anything
    regex: ["."]
    end_after_s: 600
    update_every_s: 0.001
    cooldown_s: 0
"""


@dataclass(frozen=True)
class Latency:
    """Seconds from grab to subscriber, over the events of a stretch of steady running."""

    load: float
    cameras: int
    capacity_per_s: float
    events: int
    events_per_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    most_s: float


def measure(load: float, cameras: int, seconds: float) -> Latency:
    """Find the capacity, then measure at ``load`` of it."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        video = light_clip(home)
        with RtspServer(home) as server:
            url = server.url(video)
            capacity = (
                len(_waits(home / "full", url, cameras, _MORE_THAN_IT_CAN, seconds)) / seconds
            )
            rate = load * capacity / cameras
            waits = sorted(_waits(home / "load", url, cameras, rate, seconds))
    cuts = statistics.quantiles(waits, n=100, method="inclusive")
    return Latency(
        load, cameras, capacity, len(waits), len(waits) / seconds, cuts[49], cuts[94], cuts[98],
        waits[-1],
    )  # fmt: skip


def _waits(home: Path, url: str, cameras: int, rate: float, seconds: float) -> list[float]:
    """Seconds each event took that came in a stretch of running."""
    home.mkdir()
    with EmbeddedRedis() as server, _program(home, url, cameras, rate, server.url):
        until_s = time.monotonic() + _START_S
        events = subscribe(server.url, since="0-0", keep_going=lambda: time.monotonic() < until_s)
        if next(events, None) is None:  # the model is loaded, the first caption is out
            raise RuntimeError(f"no event within {_START_S:.0f} s: {_said(home)}")
        from_s = time.monotonic() + _SETTLE_S
        until_s = from_s + seconds
        waits = []
        for event in events:
            if time.monotonic() >= from_s and event.type.startswith("watchword.alert."):
                grabbed_at = datetime.fromisoformat(event.data["frame_time"].replace("Z", "+00:00"))
                waits.append((datetime.now(timezone.utc) - grabbed_at).total_seconds())
        return waits


@contextmanager
def _program(home: Path, url: str, cameras: int, rate: float, redis_url: str) -> Iterator[None]:
    (home / "rules.yaml").write_text(_RULES)
    config = {
        "cameras": {f"c{number}": {"source": url} for number in range(cameras)},
        "capture": {
            "analysis_fps": max(rate, 2.5),
            "captions_per_second": rate,
            "skip_unchanged_below": 0.0,
        },
        "rules": {"file": str(home / "rules.yaml")},
        "redis": {"url": redis_url},
        "output": {"directory": str(home / "out"), "formats": ["jsonl"]},
        "store": {"path": str(home / "store.sqlite3")},
    }
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, str(RUN_STREAM), "run", "--config", str(home / "config.yaml")]
    with (home / "said").open("w") as said:
        process = subprocess.Popen([*command, "--quiet"], stdout=subprocess.DEVNULL, stderr=said)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _said(home: Path) -> str:
    return (home / "said").read_text()[-2000:]


def main() -> None:
    """Print the figures with what they were measured on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--load", type=float, default=0.7, help="of the capacity, 0..1")
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the two stretches")
    options = parser.parse_args()
    latency = measure(options.load, options.cameras, options.seconds)
    print(json.dumps({"latency": asdict(latency), "machine": environment()}))


if __name__ == "__main__":
    main()
