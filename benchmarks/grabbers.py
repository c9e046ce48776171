"""Grabbing many cameras, beside a peer: python -m benchmarks.grabbers [--cameras 1 8].

A server loops a real clip. Each contender runs in a process of its own and takes the newest
pictures of so many cameras of it: our capture, with its processes, and ultralytics' `LoadStreams`
where ultralytics is installed. Both decode every frame; ours hands on 2.5 pictures a second of each
camera, shrunk and judged for blindness and change, the peer every picture as it is. CPU time is
read from /proc over a stretch of steady running, for all processes of a contender.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.live import tree_cpu_s
from benchmarks.measure import print_environment, write_json
from benchmarks.real_frames import clip
from benchmarks.replay_server import serving
from pipeline.capture import CameraSpec, Capture
from pipeline.channel import Channel
from pipeline.config import CaptureConfig
from pipeline.messages import FrameRef
from pipeline.sources import parse_source

__all__ = ["main"]

_SIDE = 256
_START_S = 120.0


@dataclass(frozen=True)
class Grabbed:
    """What a contender cost and gave: CPU ms and pictures handed on, a camera a second."""

    contender: str
    cameras: int
    cpu_ms: float
    pictures: float


def ours(urls: list[str], seconds: float) -> int:
    """Take pictures with our capture; tells when every camera is up."""
    inbox: Channel[FrameRef] = Channel("frames", 4, on_drop=lambda ref, _: capture.release(ref))
    config = CaptureConfig(skip_unchanged_below=0.0)
    specs = [CameraSpec(f"c{i}", parse_source(url), config) for i, url in enumerate(urls)]
    capture = Capture(specs, _SIDE, inbox, lambda _: None)
    capture.start()
    count, until_s = 0, float("inf")
    while time.monotonic() < until_s:
        for ref in inbox.take(64, 0.1):
            capture.release(ref)
            count += until_s < float("inf")
        if until_s == float("inf") and all(status.up for status in capture.status().values()):
            _tell_ready()
            until_s = time.monotonic() + seconds
    capture.close()
    return count


def ultralytics(urls: list[str], seconds: float) -> int:
    """Take pictures with ultralytics' loader."""
    from ultralytics.data.loaders import LoadStreams

    with tempfile.NamedTemporaryFile("w", suffix=".streams") as file:
        file.write("\n".join(urls))
        file.flush()
        loader = LoadStreams(file.name)
    _tell_ready()
    count, until_s = 0, time.monotonic() + seconds
    for _, images, _ in loader:
        count += len(images)
        if time.monotonic() >= until_s:
            break
    loader.running = False
    return count


_CONTENDERS = {"ours": ours, "ultralytics LoadStreams": ultralytics}


def _tell_ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def measure(contender: str, urls: list[str], seconds: float) -> Grabbed:
    """Run a contender.

    Raises:
        RuntimeError: It ended, or no picture came, before it was ready; with what it said.

    """
    command = [sys.executable, "-m", "benchmarks.grabbers", "--as", contender]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [*command, "--seconds", str(seconds), "--urls", *urls],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        assert process.stdout is not None
        if not any(line == "ready\n" for line in process.stdout):
            said.seek(0)
            raise RuntimeError(f"{contender} left with {process.wait()}: {said.read()[-2000:]}")
        cpu_s, began_s = tree_cpu_s(process.pid), time.monotonic()
        time.sleep(0.9 * seconds)  # while all its processes are there
        spent_s, took_s = tree_cpu_s(process.pid) - cpu_s, time.monotonic() - began_s
        count = json.loads(process.stdout.readlines()[-1])
        process.wait()
    each = 1.0 / len(urls)
    return Grabbed(contender, len(urls), 1e3 * each * spent_s / took_s, each * count / seconds)


def main() -> None:
    """Print a line for each contender and number of cameras, and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--clip", default="bigbuckbunny.mp4", help="720p at 25 frames a second")
    parser.add_argument("--json", type=Path, default=Path("output/bench/grabbers.json"))
    parser.add_argument("--as", dest="contender", choices=_CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--urls", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        count = _CONTENDERS[options.contender](options.urls, options.seconds)
        sys.stdout.write(f"{json.dumps(count)}\n")
        sys.stdout.flush()
        return
    print_environment()
    there = ["ours"]
    if importlib.util.find_spec("ultralytics") is not None:
        there.append("ultralytics LoadStreams")
    else:
        print("ultralytics is not installed: its loader takes no part")
    file, found = clip(options.clip), []
    with serving([file]) as server:
        for count in options.cameras:
            for contender in there:
                urls = [server.url(file)] * count
                one = measure(contender, urls, options.seconds)
                found.append(one)
                print(
                    f"{count:3d} cameras, {contender:24s} {one.cpu_ms:8.1f} CPU ms and "
                    f"{one.pictures:5.2f} pictures a camera a second",
                    flush=True,
                )
    write_json(options.json, {"clip": file.name, "grabbed": [asdict(one) for one in found]})


if __name__ == "__main__":
    main()
