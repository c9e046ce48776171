"""A long run in which everything comes and goes: whether anything grows or is lost.

    make soak        (python -m benchmarks.soak --minutes 10)

The whole program runs on a configuration that is rewritten every few seconds: live cameras whose
server is killed or stopped and comes back, one steady camera, and a recording that is added, read
as fast as it goes, and removed. Every five seconds memory, descriptors, threads and shared memory
are read from ``/proc``, counts from the program's own metrics. Linux only.

Of the main process and the captioner the memory is what they allocated themselves (anonymous); the
pictures in shared memory are counted once, where they lie. Private memory would mix the two: a page
of a picture is private to whoever alone has it mapped, and so it goes to the main process, which
has read it for an alert, when the grabber that wrote it dies.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.clips import light_clip
from benchmarks.processes import memory_kib, processes, slope
from tests.capture_run import CLIPS
from tests.rtsp_server import RtspServer, free_port

ROOT = Path(__file__).parent.parent
LIVE = "light.mp4"
RECORDING = "bikes.mp4"
SAMPLE_EVERY_S, SWAP_EVERY_S = 5.0, 6.0
# From one fault to the next: until all cameras are back, but neither less nor more than this.
LEAST_RECOVERY_S, MOST_RECOVERY_S = 4.0, 15.0
# What is done to the server in turn, and for how long: a hang is seen after 5 s without a frame.
FAULTS = (("kill", 3.0), ("kill", 3.0), ("hang", 7.0))
READY_WITHIN_S = 900.0


@dataclass
class Sample:
    """The program at one moment; memory in KiB."""

    at_s: float
    main_kib: int = 0
    captioner_kib: int = 0
    captioner_descriptors: int = 0
    captioner_threads: int = 0
    grabbers_kib: int = 0
    grabbers: int = 0
    descriptors: int = 0
    threads: int = 0
    segments: int = 0
    pictures_kib: int = 0
    """What the segments take, whoever has them mapped."""
    online: int = 0
    """How often a camera was told to be back, so far."""
    counts: dict[str, float] = field(default_factory=dict)


class Program:
    """The program under test and the configuration file it follows."""

    def __init__(
        self, folder: Path, cameras: int, servers: Sequence[RtspServer], model: str
    ) -> None:
        unsteady, steady = servers
        self._folder, self._port, self._model = folder, free_port(), model
        self._live = {f"soak{index}": unsteady.url(LIVE) for index in range(cameras)}
        self._live["steady"] = steady.url(LIVE)
        self.cameras = len(self._live)
        self._config = folder / "soak.yaml"
        self.write(with_recording=False)
        command = [sys.executable, str(ROOT / "run_stream.py"), "run", "--json", "--config"]
        self._process = subprocess.Popen(
            [*command, str(self._config)],
            stdout=(folder / "stdout").open("w"),
            stderr=(folder / "stderr").open("w"),
        )

    def write(self, *, with_recording: bool) -> None:
        """Rewrite the configuration as an editor does: beside it, then in its place."""
        sources = dict(self._live)
        if with_recording:
            sources["recording"] = str(CLIPS / RECORDING)
        config = {
            "cameras": {name: {"source": source} for name, source in sources.items()},
            "capture": {"analysis_fps": 2.5, "captions_per_second": 1.0},
            "model": {"name": self._model},
            "metrics": {"port": self._port},
            "output": {"directory": str(self._folder)},
            "store": {"path": str(self._folder / "watchword.sqlite3")},
        }
        new = self._config.with_suffix(".new")
        new.write_text(yaml.safe_dump(config))
        new.replace(self._config)

    def wait_until_ready(self) -> None:
        """Wait for the model and a first camera."""
        deadline_s = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline_s:
            try:
                self._get("readyz")
            except OSError:
                time.sleep(1.0)
            else:
                return
        raise SystemExit("the program was not ready in time")

    def sample(self, began_s: float) -> Sample:
        """Look at the program as it is now."""
        sample = Sample(time.monotonic() - began_s)
        for pid, kind in processes(self._process.pid):
            try:
                _add(sample, pid, kind)
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
        segments = self.segments()
        sample.segments = len(segments)
        sample.pictures_kib = sum(_taken_kib(segment) for segment in segments)
        sample.online = self.said_online()
        sample.counts = self._counts()
        return sample

    def up(self) -> int:
        """How many cameras bring frames now."""
        return int(self._counts().get("camera_up", 0.0))

    def finish(self) -> tuple[int, dict[str, Any]]:
        """Stop it; its exit code and summary."""
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(120)
        last = (self._folder / "stdout").read_text().splitlines()[-1]
        return code, json.loads(last)

    def kill(self) -> None:
        """End it whatever it does: the soak itself has failed, or all is over."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def segments(self) -> list[Path]:
        """Its shared memory, also once it has ended: its number is in the names, no other's."""
        return list(Path("/dev/shm").glob(f"ww{self._process.pid}-*"))

    def said_online(self) -> int:
        """How often it has told that a camera is back."""
        with (self._folder / "stdout").open() as lines:
            return sum('"watchword.camera.online"' in line for line in lines)

    def said(self) -> str:
        """What it has said on stderr."""
        return (self._folder / "stderr").read_text()

    def _counts(self) -> dict[str, float]:
        counts: dict[str, float] = {}
        for family in text_string_to_metric_families(self._get("metrics")):
            for sample in family.samples:
                if sample.name.startswith("watchword_"):
                    name = sample.name.removeprefix("watchword_")
                    counts[name] = counts.get(name, 0.0) + sample.value
        return counts

    def _get(self, page: str) -> str:
        if self._process.poll() is not None:
            raise SystemExit(f"the program has ended ({self._process.returncode}): {self.said()}")
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/{page}", timeout=20) as answer:
            return answer.read().decode()


def _taken_kib(segment: Path) -> int:
    try:
        return segment.stat().st_blocks // 2
    except FileNotFoundError:
        return 0  # its camera has gone meanwhile


def _add(sample: Sample, pid: int, kind: str) -> None:
    sizes = memory_kib(pid)
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    if kind == "main":
        sample.main_kib = sizes["Anonymous"]
        sample.descriptors, sample.threads = descriptors, threads
    elif kind == "captioner":
        sample.captioner_kib = sizes["Anonymous"]
        sample.captioner_descriptors, sample.captioner_threads = descriptors, threads
    elif kind == "grabber":
        sample.grabbers += 1
        # Not all that is anonymous: much of it is the fork server's, which all of them share.
        sample.grabbers_kib += sizes["Private_Clean"] + sizes["Private_Dirty"]


def torment(program: Program, unsteady: RtspServer, minutes: float) -> list[Sample]:
    """Run the script of faults; the samples."""
    began_s = time.monotonic()
    samples: list[Sample] = []
    script = Script(program, unsteady, faults_until_s=minutes * 60 - 60)
    next_sample_s = next_swap_s = 0.0
    with_recording = False
    while (now_s := time.monotonic() - began_s) < minutes * 60:
        script.go_on(now_s)
        if now_s >= next_swap_s and now_s < minutes * 60 - 30:
            with_recording = not with_recording
            program.write(with_recording=with_recording)
            next_swap_s = now_s + SWAP_EVERY_S
        if now_s >= next_sample_s:
            samples.append(program.sample(began_s))
            next_sample_s = now_s + SAMPLE_EVERY_S
        time.sleep(0.1)
    samples.append(program.sample(began_s))
    return samples


class Script:
    """Faults of the unsteady server, one after the other."""

    def __init__(self, program: Program, unsteady: RtspServer, faults_until_s: float) -> None:
        self._program, self._server = program, unsteady
        self._until_s = faults_until_s
        self._faults = 0
        self._mend_s: float | None = None
        self._mended_s = self._look_s = 0.0

    def go_on(self, now_s: float) -> None:
        """Do what is due."""
        kind, lasts_s = FAULTS[self._faults % len(FAULTS)]
        if self._mend_s is None:
            if self._may_fail(now_s):
                (self._server.hang if kind == "hang" else self._server.kill)()
                self._mend_s = now_s + lasts_s
        elif now_s >= self._mend_s:
            if kind == "hang":
                self._server.resume()
            else:
                self._server.start(within_s=120.0)
            self._faults += 1
            self._mend_s, self._mended_s = None, now_s

    def _may_fail(self, now_s: float) -> bool:
        rest_s = now_s - self._mended_s
        if now_s >= self._until_s or rest_s < LEAST_RECOVERY_S or now_s < self._look_s:
            return False
        self._look_s = now_s + 1.0
        return rest_s >= MOST_RECOVERY_S or self._program.up() >= self._program.cameras


GROWING = (
    ("main_kib", "KiB"),
    ("captioner_kib", "KiB"),
    ("pictures_kib", "KiB"),
    ("descriptors", ""),
    ("threads", ""),
    ("captioner_descriptors", ""),
    ("captioner_threads", ""),
    ("segments", ""),
)


def report(samples: list[Sample], warm_up_s: float) -> None:
    """Print first, last and growth of everything that must not grow.

    Growth is the least squares slope over the time; its bound adds two standard errors. All of it
    is laid to the captions, then all of it to the reconnects: each figure is the most it can be.
    """
    kept = [sample for sample in samples if sample.at_s >= warm_up_s]
    first, last = kept[0], kept[-1]
    captions = last.counts["captions_total"] - first.counts["captions_total"]
    reconnects = last.online - first.online
    span_s = last.at_s - first.at_s
    attempts = last.counts.get("camera_reconnects_total", 0.0)
    print(f"in the whole run: {last.online} reconnects ({attempts:.0f} attempts to reopen)")
    print(
        f"after a warm-up of {warm_up_s:.0f} s: {span_s:.0f} s, {captions:.0f} captions, "
        f"{reconnects} reconnects"
    )
    times = np.array([sample.at_s for sample in kept])
    print(f"{'':22s}at each quarter | least most | growth (bound) a 1,000 captions | a reconnect")
    for name, unit in GROWING:
        values = np.array([getattr(sample, name) for sample in kept], float)
        a_second, error = slope(times, values)
        growth, bound = a_second * span_s, (a_second + 2 * error) * span_s
        shares = [1000 / max(captions, 1), 1 / max(reconnects, 1)]
        each = " | ".join(f"{growth * share:+.2f} ({bound * share:+.2f})" for share in shares)
        print(
            f"{name:21s} {_course(values)} | {values.min():.0f} {values.max():.0f} | {each} {unit}"
        )
    each_kib = [sample.grabbers_kib / sample.grabbers for sample in kept if sample.grabbers]
    print(f"a grabber's own memory: median {np.median(each_kib):.0f} KiB, most {max(each_kib):.0f}")


def _course(values: np.ndarray) -> str:
    """Five values over the time: what only starts up comes to rest, what leaks goes on."""
    picked = np.linspace(0, len(values) - 1, 5).round().astype(int)
    return " ".join(f"{values[index]:.0f}" for index in picked)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--cameras", type=int, default=7, help="on the server that fails")
    parser.add_argument("--model", default="default", help="a small one makes more captions")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        light_clip(folder, LIVE)
        unsteady, steady = (stack.enter_context(RtspServer(folder)) for _ in range(2))
        program = Program(folder, given.cameras, (unsteady, steady), given.model)
        stack.callback(program.kill)
        program.wait_until_ready()
        print("ready", flush=True)
        samples = torment(program, unsteady, given.minutes)
        code, summary = program.finish()
        said = program.said()
    report(samples, warm_up_s=given.minutes * 12)
    up = samples[-1].counts["camera_up"]
    print(f"lost cameras: {program.cameras - up:.0f} of {program.cameras}")
    print(f"reloads {said.count('reloaded: ')}, refused {said.count('not reloaded')}")
    frames = summary["total"]["frames"]
    given_up = sum(frames["dropped"].values()) + sum(frames["failed"].values())
    settled = frames["unsampled"] + frames["skipped"] + given_up + frames["encoded"]
    print(f"exit code {code} (130: stopped by us); frames {frames}")
    print(f"books balance: {frames['grabbed'] == settled}")
    print(f"shared memory left: {len(program.segments())} segments")


if __name__ == "__main__":
    main()
