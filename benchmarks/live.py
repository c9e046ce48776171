"""Live cameras: python -m benchmarks.live. CPU of a camera, and where a caption's time goes.

An RTSP server loops a real clip; the program watches so many cameras of it. CPU time is read from
/proc over a stretch of steady running, for every process of the program and none of the server's;
the stages' own times are read from the program's metrics at both ends of the stretch.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.measure import print_environment, write_json
from benchmarks.real_frames import clip

__all__ = ["Load", "main", "rtsp_server", "tree_cpu_s", "watch_cameras"]

_ROOT = Path(__file__).parent.parent
_START_S = 240.0
_STAGES = ("grab and queue", "encode", "decode", "rules", "outputs", "grab to caption")
Totals = dict[str, tuple[float, float]]
"""Of each stage, the seconds it took and how often, since the start."""


@dataclass(frozen=True)
class Load:
    """What a stretch of steady running cost and gave, over all cameras.

    ``stages_ms`` are means: of a frame from grab to batch, of a batch's encode and decode, of a
    caption in rules and outputs, and of a caption from the grab of its last frame.
    """

    cameras: int
    seconds: float
    cpu_s: float
    captions: int
    stages_ms: dict[str, float]

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
    ports = [str(free_port()) for _ in range(2)]
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def watch_cameras(url: str, cameras: int, seconds: float) -> Load:
    """Watch so many cameras of one stream; measure once each has had its first caption.

    Raises:
        RuntimeError: The program ended, or a camera had no caption in time; with what it said.

    """
    with tempfile.TemporaryDirectory() as folder:
        named = [f"c{i}={url}" for i in range(cameras)]
        port = free_port()
        said = Path(folder) / "said"
        with said.open("w") as errors:
            process = subprocess.Popen(
                [
                    *(sys.executable, str(_ROOT / "run_stream.py"), "run", *named, "--json"),
                    *("--output", folder, "--format", "jsonl", "--metrics-port", str(port)),
                ],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=folder,
            )
        captions: Counter[str] = Counter()
        reader = threading.Thread(target=_count, args=(process, captions), daemon=True)
        reader.start()
        try:
            return _measure(process, port, captions, cameras, seconds)
        except RuntimeError as error:
            raise RuntimeError(f"{error}: {said.read_text()[-2000:]}") from None
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            reader.join()


def _count(process: subprocess.Popen[str], captions: Counter[str]) -> None:
    """Count captions by camera until the program ends."""
    assert process.stdout is not None
    for line in process.stdout:
        if '"type": "caption"' in line:
            captions[line.split('"camera": "', 1)[1].split('"', 1)[0]] += 1


def _measure(
    process: subprocess.Popen[str],
    port: int,
    captions: Counter[str],
    cameras: int,
    seconds: float,
) -> Load:
    deadline_s = time.monotonic() + _START_S
    while len(captions) < cameras:
        if process.poll() is not None:
            raise RuntimeError(f"the program left with {process.returncode}")
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"{len(captions)} of {cameras} cameras captioned in {_START_S:g} s")
        time.sleep(0.2)
    began_s, cpu_s, before = time.monotonic(), tree_cpu_s(process.pid), stage_totals(port)
    count = captions.total()
    time.sleep(seconds)
    took_s, after = time.monotonic() - began_s, stage_totals(port)
    means = {stage: _mean_ms(before.get(stage, (0.0, 0.0)), after[stage]) for stage in after}
    stages_ms = {stage: means[stage] for stage in _STAGES if stage in means}
    spent_s = tree_cpu_s(process.pid) - cpu_s
    return Load(cameras, took_s, spent_s, captions.total() - count, stages_ms)


def stage_totals(port: int) -> Totals:
    """Read the stages' totals from the metrics of a program."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    names = {
        "watchword_grab_to_batch_seconds": "grab and queue",
        "watchword_grab_to_caption_seconds": "grab to caption",
    }
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            stage = names.get(family.name) or sample.labels.get("stage", "")
            kind = sample.name.rsplit("_", 1)[1]
            if stage and kind in ("sum", "count"):
                found.setdefault(stage, {})[kind] = sample.value
    return {stage: (totals["sum"], totals["count"]) for stage, totals in found.items()}


def _mean_ms(before: tuple[float, float], after: tuple[float, float]) -> float:
    times = after[1] - before[1]
    return 1e3 * (after[0] - before[0]) / times if times else float("nan")


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
    print_environment()
    file = clip(options.clip)
    loads = []
    with rtsp_server(file.parent) as base:
        for count in options.cameras:
            load = watch_cameras(f"{base}/{file.name}?play_count=0", count, options.seconds)
            loads.append(load)
            print(
                f"{count:3d} cameras: {load.cpu_ms_per_camera_second:8.1f} CPU ms a camera a "
                f"second, {load.captions_per_camera_second:.2f} captions a camera a second",
                flush=True,
            )
            stages = ", ".join(f"{name} {ms:.1f}" for name, ms in load.stages_ms.items())
            print(f"    mean ms: {stages}", flush=True)
    write_json(options.json, {"clip": file.name, "loads": [asdict(load) for load in loads]})


if __name__ == "__main__":
    main()
