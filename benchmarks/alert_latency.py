"""From the grab of a frame to its alert at a subscriber, at a given load.

    python -m benchmarks.alert_latency [--load 0.7] [--cameras 8] [--seconds 60]

RTSP cameras loop a real clip, each frame looked at is captioned, and a rule fires on every caption.
First the program is asked for more captions than it can give, which measures its capacity; then for
``load`` of that, while a subscriber holds the time each event came against its frame's. Both are
this machine's wall clock, so the figure holds grab, queues, encoder, search, rules, outbox, Redis
and subscriber. Run it on a quiet machine: it measures whatever else runs, too, and says so when the
program was not given the time for the captions that were asked of it.
"""

from __future__ import annotations

import argparse
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

from benchmarks.clips import LIGHT_FPS, light_clip
from benchmarks.measure import print_environment, write_json
from benchmarks.program import RUN_STREAM
from benchmarks.replay_server import serving
from pipeline.alerts import EmbeddedRedis, subscribe
from pipeline.outputs.lines import utc_moment

_START_S, _SETTLE_S, _STOP_S = 300.0, 5.0, 60.0
_MORE_THAN_IT_CAN = 30.0
"""Captions a second and camera; the clip's own rate bounds what there is to caption."""
_NEARLY = 0.95
_LEAST_EVENTS, _LONGEST_S = 30, 300.0
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
    """Seconds from grab to subscriber, over the events of a stretch of steady running.

    ``load`` is what was asked for and ``load_reached`` what was given, both of the capacity; where
    the first is the larger by far, the waits are those of an overloaded machine. A capacity that is
    all the ``source_bound`` cameras show is no capacity: ask for more cameras.
    """

    load: float
    load_reached: float
    cameras: int
    capacity_per_s: float
    source_bound: bool
    events: int
    events_per_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    most_s: float


def measure(load: float, cameras: int, seconds: float) -> Latency:
    """Find the capacity, then measure at ``load`` of it.

    Raises:
        RuntimeError: The program ended, or gave no event in a stretch; with what it said.

    """
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        video = home / light_clip(home)
        with serving([video]) as server:
            url = server.url(video)
            full = _waits(home / "full", url, cameras, _MORE_THAN_IT_CAN, seconds)
            capacity = len(full) / seconds
            rate = load * capacity
            # Where the machine gives little, so long that there is something to take shares of.
            seconds = min(_LONGEST_S, max(seconds, _LEAST_EVENTS / rate))
            _say(
                f"capacity: {capacity:.2f} captions a second; now {load:.0%} of it, {seconds:.0f} s"
            )
            waits = sorted(_waits(home / "load", url, cameras, rate / cameras, seconds))
    cuts = statistics.quantiles(waits, n=100, method="inclusive") if waits[1:] else waits * 99
    return Latency(
        load=load,
        load_reached=len(waits) / seconds / capacity,
        cameras=cameras,
        capacity_per_s=capacity,
        source_bound=capacity >= _NEARLY * LIGHT_FPS * cameras,
        events=len(waits),
        events_per_s=len(waits) / seconds,
        p50_s=cuts[49],
        p95_s=cuts[94],
        p99_s=cuts[98],
        most_s=waits[-1],
    )


def _waits(home: Path, url: str, cameras: int, rate: float, seconds: float) -> list[float]:
    """Seconds each event took that came in a stretch of running; at least one."""
    home.mkdir()
    with EmbeddedRedis() as server, _program(home, url, cameras, rate, server.url) as process:
        until_s = time.monotonic() + _START_S

        def goes_on() -> bool:
            return time.monotonic() < until_s and process.poll() is None

        # Alerts alone: on a slow start cameras are told as offline before the model is loaded.
        alerts = subscribe(server.url, since="0-0", type="watchword.alert.*", keep_going=goes_on)
        _say(f"{cameras} cameras, {rate:.2f} captions a second of each; the model loads")
        silent = {f"c{number}" for number in range(cameras)}
        while silent and (alert := next(alerts, None)) is not None:
            silent.discard(alert.camera)
        if silent:
            raise RuntimeError(
                f"no caption of {', '.join(sorted(silent))} within {_START_S:g} s: {_said(home)}"
            )
        from_s = time.monotonic() + _SETTLE_S
        until_s = from_s + seconds
        waits = []
        for alert in alerts:
            if time.monotonic() >= from_s:
                grabbed_at = utc_moment(alert.data["frame_time"])
                waits.append((datetime.now(timezone.utc) - grabbed_at).total_seconds())
        if process.poll() is not None or not waits:
            raise RuntimeError(f"no events in {seconds:g} s of running: {_said(home)}")
        return waits


@contextmanager
def _program(
    home: Path, url: str, cameras: int, rate: float, redis_url: str
) -> Iterator[subprocess.Popen[bytes]]:
    (home / "rules.yaml").write_text(_RULES)
    config = {
        "cameras": {f"c{number}": {"source": url} for number in range(cameras)},
        "capture": {
            "analysis_fps": rate,  # each frame is captioned, as where capacity is measured
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
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")


def _said(home: Path) -> str:
    return (home / "said").read_text()[-2000:]


def main() -> None:
    """Print the figures with what they were measured on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--load", type=float, default=0.7, help="of the capacity, 0..1")
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the two stretches")
    parser.add_argument("--json", type=Path, default=Path("output/bench/alert_latency.json"))
    options = parser.parse_args()
    print_environment()
    latency = measure(options.load, options.cameras, options.seconds)
    if latency.load_reached < _NEARLY * latency.load:
        _say("fewer captions came than were asked for: something else used this machine meanwhile")
    if latency.source_bound:
        _say(
            "all that the cameras show was captioned: the capacity is theirs; ask for more cameras"
        )
    for name, value in asdict(latency).items():
        print(f"{name:16s} {value}")
    write_json(options.json, {"latency": asdict(latency)})


if __name__ == "__main__":
    main()
