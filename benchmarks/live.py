"""Live cameras: python -m benchmarks.live. CPU of a camera, and where a caption's time goes.

A server loops a real clip (:mod:`benchmarks.replay_server`); the program watches so many cameras of
it. CPU time is read from /proc over a stretch of steady running, for every process of the program
and, apart, the server's; the stages' own times, and what was dropped, are read from the program's
metrics at both ends of the stretch. ``--scene key-frames`` shows the clip with a key frame a second
and decodes nothing else; ``--scene still`` does so with one real picture under a sensor's noise, of
which ``--scene still-full`` decodes every frame. All are 720p at 25 frames a second.
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.long_recording import ffmpeg
from benchmarks.measure import print_environment, write_json
from benchmarks.processes import cpu_s_by_kind
from benchmarks.real_frames import clip
from benchmarks.replay_server import Serving, serving

__all__ = ["Load", "Watching", "main", "still", "tree_cpu_s", "watch_cameras", "watching"]

_ROOT = Path(__file__).parent.parent
_CLIP = "bigbuckbunny.mp4"
_KEY_FRAMES = ("-c:v", "libx264", "-g", "25", "-sc_threshold", "0", "-bf", "0")
_SCENES = ("full", "key-frames", "still", "still-full")
_START_S, _SETTLE_S = 240.0, 10.0
_STAGES = ("grab and queue", "encode", "decode", "rules", "outputs", "grab to caption")
_GIVEN_UP = ("watchword_frames_dropped_total", "watchword_frames_failed_total")
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
    cpu_s: dict[str, float]
    """CPU seconds by kind of process: main, captioner, grabber."""
    captions: int
    grabbed: int
    """Frames read; fewer than 25 a camera and second: the server was not given the time."""
    dropped: dict[str, int]
    """Frames given up, by reason; those that were not to be sampled or had not changed apart."""
    stages_ms: dict[str, float]
    batch: dict[str, float]
    """Frames encoded and captions decoded together, means."""
    start_s: float
    """From the start of the program until every camera had a caption."""
    server_cpu_s: float
    """What the cameras' server took beside."""

    @property
    def cpu_ms_per_camera_second(self) -> float:
        """CPU milliseconds a camera costs a second."""
        return sum(self.cpu_ms.values())

    @property
    def cpu_ms(self) -> dict[str, float]:
        """The same by kind of process."""
        each = 1e3 / self.seconds / self.cameras
        return {kind: each * spent_s for kind, spent_s in self.cpu_s.items()}

    @property
    def captions_per_camera_second(self) -> float:
        """Captions a camera gets a second."""
        return self.captions / self.seconds / self.cameras


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass(frozen=True)
class Watching:
    """The program at work on some cameras."""

    process: subprocess.Popen[str]
    port: int
    """Of its metrics."""
    captions: Counter[str]
    """How many each camera has had."""

    def wait_for_captions(self, cameras: int) -> None:
        """Wait until so many cameras have had one.

        Raises:
            RuntimeError: The program ended, or they had none in time.

        """
        deadline_s = time.monotonic() + _START_S
        while len(self.captions) < cameras:
            if self.process.poll() is not None:
                raise RuntimeError(f"the program left with {self.process.returncode}")
            if time.monotonic() > deadline_s:
                had = f"{len(self.captions)} of {cameras} cameras"
                raise RuntimeError(f"{had} captioned in {_START_S:g} s")
            time.sleep(0.2)


@contextmanager
def watching(
    server: Serving, file: Path, cameras: int, settings: Mapping[str, object] | None = None
) -> Iterator[Watching]:
    """Run the program on so many cameras of one file.

    ``settings`` are parts of the configuration.

    Raises:
        RuntimeError: As raised within, with what the program said.

    """
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        said, config = Path(folder) / "said", Path(folder) / "watchword.yaml"
        named = {f"c{i}": {"source": server.url(file)} for i in range(cameras)}
        config.write_text(yaml.safe_dump({"cameras": named, **(settings or {})}))
        with said.open("w") as errors:
            process = subprocess.Popen(
                [
                    *(sys.executable, str(_ROOT / "run_stream.py"), "run", "--json"),
                    *("--config", str(config), "--output", folder, "--format", "jsonl"),
                    *("--metrics-port", str(port)),
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
            yield Watching(process, port, captions)
        except RuntimeError as error:
            raise RuntimeError(f"{error}: {said.read_text()[-2000:]}") from None
        finally:
            process.send_signal(signal.SIGTERM)  # SIGINT is ignored by what runs in the background
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            reader.join()


def watch_cameras(
    server: Serving,
    file: Path,
    cameras: int,
    seconds: float,
    settings: Mapping[str, object] | None = None,
) -> Load:
    """Watch so many cameras of one file; measure once each has had its first caption.

    Raises:
        RuntimeError: The program ended, or a camera had no caption in time; with what it said.

    """
    with watching(server, file, cameras, settings) as program:
        return _measure(program, server.pid, cameras, seconds)


def _count(process: subprocess.Popen[str], captions: Counter[str]) -> None:
    """Count captions by camera until the program ends."""
    assert process.stdout is not None
    for line in process.stdout:
        if '"type": "caption"' in line:
            captions[line.split('"camera": "', 1)[1].split('"', 1)[0]] += 1


def _measure(program: Watching, server: int, cameras: int, seconds: float) -> Load:
    process, port, captions = program.process, program.port, program.captions
    start_s = time.monotonic()
    program.wait_for_captions(cameras)
    start_s = time.monotonic() - start_s
    time.sleep(_SETTLE_S)
    server_s = tree_cpu_s(server)
    grabbed, dropped = frames(port)
    began_s, cpu_s, before = time.monotonic(), cpu_s_by_kind(process.pid), stage_totals(port)
    count = captions.total()
    time.sleep(seconds)
    took_s, after = time.monotonic() - began_s, stage_totals(port)
    means = {stage: _mean_ms(before.get(stage, (0.0, 0.0)), after[stage]) for stage in after}
    stages_ms = {stage: means[stage] for stage in _STAGES if stage in means}
    times = {stage: after[stage][1] - before.get(stage, (0.0, 0.0))[1] for stage in after}
    batch = {
        "frames": times["grab and queue"] / max(1.0, times["encode"]),
        "captions": times["grab to caption"] / max(1.0, times["decode"]),
    }
    now_s, server_s = cpu_s_by_kind(process.pid), tree_cpu_s(server) - server_s
    spent_s = {kind: now_s[kind] - cpu_s.get(kind, 0.0) for kind in now_s}
    made, (read, given_up) = captions.total() - count, frames(port)
    lost = dict(given_up - dropped)
    return Load(
        *(cameras, took_s, spent_s, made, read - grabbed, lost, stages_ms),
        batch=batch,
        start_s=start_s,
        server_cpu_s=server_s,
    )


def metrics_text(port: int) -> str:
    """What a program says of itself, in Prometheus' text format."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def frames(port: int) -> tuple[int, Counter[str]]:
    """Frames that a program has read so far, and those given up by reason, of all cameras."""
    grabbed, given_up = 0, Counter[str]()
    for family in text_string_to_metric_families(metrics_text(port)):
        for sample in family.samples:
            if sample.name == "watchword_frames_grabbed_total":
                grabbed += int(sample.value)
            elif sample.name in _GIVEN_UP:
                given_up[sample.labels["reason"]] += int(sample.value)
    return grabbed, given_up


def stage_totals(port: int) -> Totals:
    """Read the stages' totals from the metrics of a program."""
    text = metrics_text(port)
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
    return sum(cpu_s_by_kind(pid).values())


def with_key_frames(file: Path, folder: Path) -> Path:
    """Encode a clip anew with a key frame a second; the name of the copy."""
    copy = folder / "key-frames.mp4"
    ffmpeg(["-i", str(file), "-an", *_KEY_FRAMES, str(copy)])
    return copy


def still(folder: Path, seconds: int = 20) -> Path:
    """Show a street at 720p, 25 frames a second, in which nothing but the sensor's noise moves."""
    picture, file = folder / "still.png", folder / "still.mp4"
    shown = cv2.VideoCapture(str(clip("bikes.mp4"))).read()[1]
    cv2.imwrite(str(picture), cv2.resize(shown, (1280, 720)))
    look = ["-loop", "1", "-framerate", "25", "-t", str(seconds), "-i", str(picture)]
    ffmpeg([*look, "-vf", "noise=alls=4:allf=t,format=yuv420p", *_KEY_FRAMES, str(file)])
    return file


def main() -> None:
    """Run the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--scene", choices=_SCENES, default="full")
    parser.add_argument("--runtime", default="auto", help="as the program's own --runtime")
    parser.add_argument("--batch-delay-ms", type=float, help="as model.max_batch_delay_ms")
    parser.add_argument("--json", type=Path, help="default: output/bench/live[-SCENE].json")
    options = parser.parse_args()
    print_environment()
    name = "live" if options.scene == "full" else f"live-{options.scene}"
    loads = []
    with ExitStack() as stack:
        folder, file = Path(stack.enter_context(tempfile.TemporaryDirectory())), clip(_CLIP)
        if options.scene != "full":
            still_scene = options.scene.startswith("still")
            file = still(folder) if still_scene else with_key_frames(file, folder)
        settings: dict[str, dict[str, object]] = {
            "capture": {"key_frames_only": options.scene in ("key-frames", "still")},
            "model": {"runtime": options.runtime},
        }
        if options.batch_delay_ms is not None:
            settings["model"]["max_batch_delay_ms"] = options.batch_delay_ms
        server = stack.enter_context(serving([file]))
        for cameras in options.cameras:
            load = watch_cameras(server, file, cameras, options.seconds, settings)
            loads.append(load)
            _tell(load)
            # After each, as a machine may be too small for the next.
            found = {"clip": file.name, "loads": [asdict(load) for load in loads]}
            write_json(options.json or Path(f"output/bench/{name}.json"), found)


def _tell(load: Load) -> None:
    each = load.seconds * load.cameras
    print(
        f"{load.cameras:3d} cameras: {load.cpu_ms_per_camera_second:8.1f} CPU ms a camera a "
        f"second, {load.captions_per_camera_second:.2f} captions and "
        f"{load.grabbed / each:.1f} frames a camera a second, dropped {load.dropped or 'none'}"
    )
    kinds = ", ".join(f"{kind} {ms:.1f}" for kind, ms in load.cpu_ms.items())
    print(f"    of it: {kinds}; the cameras' server besides {1e3 * load.server_cpu_s / each:.1f}")
    stages = ", ".join(f"{name} {ms:.1f}" for name, ms in load.stages_ms.items())
    print(f"    mean ms: {stages}")
    together = ", ".join(f"{count:.1f} {what}" for what, count in load.batch.items())
    print(f"    a batch: {together}; all had a caption after {load.start_s:.0f} s", flush=True)


if __name__ == "__main__":
    main()
