"""Live cameras: python -m benchmarks.live. CPU of a camera, and what a still scene saves.

An RTSP server loops a real clip; the program watches so many cameras of it. CPU time is read from
/proc over a stretch of steady running, for every process of the program and none of the server's.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import write_json
from benchmarks.real_frames import clip

__all__ = ["Load", "main", "watch_cameras"]

_ROOT = Path(__file__).parent.parent
_START_S = 60.0


@dataclass(frozen=True)
class Load:
    """What a stretch of steady running cost and gave, over all cameras."""

    cameras: int
    seconds: float
    cpu_s: float
    captions: int

    @property
    def cpu_ms_per_camera_second(self) -> float:
        """CPU milliseconds a camera costs a second."""
        return 1e3 * self.cpu_s / self.seconds / self.cameras

    @property
    def captions_per_camera_second(self) -> float:
        """Captions a camera gets a second."""
        return self.captions / self.seconds / self.cameras


@contextmanager
def rtsp_server(folder: Path) -> Iterator[str]:
    """Run a server over a folder's files; gives its base URL."""
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(str(probe.getsockname()[1]))
    program = Path(sys.executable).with_name("rtsp-server")
    place = ["--host", "127.0.0.1", "--port", ports[0], "--control-port", ports[1]]
    server = subprocess.Popen(
        [str(program), "--dir", str(folder), *place],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(2.0)
    try:
        yield f"rtsp://127.0.0.1:{ports[0]}"
    finally:
        server.kill()
        server.wait()


def watch_cameras(url: str, cameras: int, seconds: float) -> Load:
    """Watch so many cameras of one stream; measure once each has had its first caption."""
    with tempfile.TemporaryDirectory() as folder:
        named = [f"c{i}={url}" for i in range(cameras)]
        process = subprocess.Popen(
            [
                *(sys.executable, str(_ROOT / "run_stream.py"), "run", *named, "--json"),
                *("--output", folder, "--format", "jsonl"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=folder,
        )
        try:
            return _measure(process, cameras, seconds)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def _measure(process: subprocess.Popen[str], cameras: int, seconds: float) -> Load:
    assert process.stdout is not None
    seen: set[str] = set()
    deadline_s = time.monotonic() + _START_S
    while len(seen) < cameras and time.monotonic() < deadline_s:
        line = process.stdout.readline()
        if '"type": "caption"' in line:
            seen.add(line.split('"camera": "', 1)[1].split('"', 1)[0])
    began_s, cpu_s, captions = time.monotonic(), tree_cpu_s(process.pid), 0
    while time.monotonic() - began_s < seconds:
        captions += '"type": "caption"' in process.stdout.readline()
    took_s = time.monotonic() - began_s
    return Load(cameras, took_s, tree_cpu_s(process.pid) - cpu_s, captions)


def tree_cpu_s(pid: int) -> float:
    """User and system seconds of a process and all that descend from it."""
    parents, used = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it has ended meanwhile
        number = int(stat.parent.name)
        parents[number] = int(fields[1])
        used[number] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    family, grown = {pid}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in family} - family
        family, grown = family | more, bool(more)
    return sum(used.get(member, 0.0) for member in family)


def main() -> None:
    """Run the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--clip", default="bigbuckbunny.mp4", help="720p at 25 frames a second")
    parser.add_argument("--json", type=Path, default=Path("output/bench/live.json"))
    options = parser.parse_args()
    file = clip(options.clip)
    loads = []
    with rtsp_server(file.parent) as base:
        for count in options.cameras:
            load = watch_cameras(f"{base}/{file.name}?play_count=0", count, options.seconds)
            loads.append(load)
            print(
                f"{count:3d} cameras: {load.cpu_ms_per_camera_second:8.1f} CPU ms a camera a "
                f"second, {load.captions_per_camera_second:.2f} captions a camera a second"
            )
    write_json(options.json, {"clip": file.name, "loads": [asdict(load) for load in loads]})


if __name__ == "__main__":
    main()
