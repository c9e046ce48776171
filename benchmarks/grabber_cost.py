"""What one camera costs: processor time against bare decoding, and memory.

    python -m benchmarks.grabber_cost [VIDEO] [--cameras 16]

Processor time: the grabber over the whole file (2.5 frames looked at a second, shrunk, judged and
handed over) against a bare loop of ``VideoCapture.grab()``, and against key frames alone; the least
of seven rounds each, in turn. Memory: that many live cameras at once from one server, the private
memory of each grabber, what the server that forks them takes, and shared memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from benchmarks.clips import full_hd_clip, light_clip
from benchmarks.measure import print_environment
from pipeline.capture import CameraSpec, Capture
from pipeline.channel import Channel
from pipeline.config import CaptureConfig
from pipeline.grab_messages import Delivered, Ended, Failed, GrabJob, Grant, Stop
from pipeline.grabber import Grabber
from pipeline.messages import FrameRef
from pipeline.readers import quiet_libraries
from pipeline.slots import FrameSlots
from pipeline.sources import parse_source
from tests.rtsp_server import RtspServer

ROUNDS = 7
SQUARE_PIXELS = 224


def bare(video: str) -> float:
    quiet_libraries()
    before_s = time.process_time()
    capture = cv2.VideoCapture(video, cv2.CAP_FFMPEG)
    while capture.grab():
        pass
    return time.process_time() - before_s


def grab(video: str, key_frames_only: bool) -> float:
    quiet_libraries()
    config = CaptureConfig(key_frames_only=key_frames_only)
    slots = FrameSlots.create("cost", 8, SQUARE_PIXELS, config.preview_pixels)
    ours, theirs = multiprocessing.Pipe()
    source = parse_source(video)

    def give_back() -> None:
        ours.send(Grant(tuple(range(8))))
        while not isinstance(message := ours.recv(), (Ended, Failed)):
            if isinstance(message, Delivered):
                ours.send(Grant((message.ref.slot,)))
        ours.send(Stop())

    main_process = threading.Thread(target=give_back)
    main_process.start()
    before_s = time.process_time()
    grabber = Grabber(theirs, GrabJob("cost", source, config, slots.layout, waits=True))
    grabber.grab_all()
    spent_s = time.process_time() - before_s
    main_process.join()
    for views in (grabber._slots, slots):
        views.close()
    slots.unlink()
    return spent_s


def compare_processor(video: Path) -> None:
    ways: dict[str, Callable[[], float]] = {}
    # A process each, one after the other: nothing that one has warmed or holds helps another.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        ways["bare decoding"] = lambda: pool.apply(bare, (str(video),))
        ways["the grabber"] = lambda: pool.apply(grab, (str(video), False))
        ways["the grabber, key frames alone"] = lambda: pool.apply(grab, (str(video), True))
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, work in ways.items():
                seconds[name].append(work())
    least = {name: min(found) for name, found in seconds.items()}
    for name, found in least.items():
        share = found / least["bare decoding"]
        print(f"{name:30s} {found:7.3f} s of processor, {share:5.2f} x bare", flush=True)


def private_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return sizes["Private_Clean"] + sizes["Private_Dirty"]


def measure_memory(cameras: int) -> None:
    inbox: Channel[FrameRef] = Channel("frames", 2, on_drop=lambda ref, _: capture.release(ref))
    with tempfile.TemporaryDirectory() as folder:
        clip = light_clip(Path(folder))
        with RtspServer(Path(folder)) as server:
            config = CaptureConfig(open_timeout_s=60.0, stale_after_s=60.0)
            source = parse_source(server.url(clip))
            specs = [CameraSpec(f"c{index}", source, config) for index in range(cameras)]
            capture = Capture(specs, SQUARE_PIXELS, inbox, lambda _: None)
            capture.start()
            deadline_s = time.monotonic() + 120.0
            while not all(status.up for status in capture.status().values()):
                if time.monotonic() > deadline_s:
                    raise SystemExit("not all cameras came up")
                for ref in inbox.take(64, 0.2):
                    capture.release(ref)
            time.sleep(5.0)
            sizes = [private_kib(pid) for pid in _grabbers()]
            shared = sum(path.stat().st_blocks * 512 for path in Path("/dev/shm").glob("wwc*"))
            capture.close()
    print(f"{len(sizes)} grabbers of 320x144 pictures; KiB a camera:")
    print(f"  private {np.median(sizes):.0f} (most {max(sizes)})")
    print(f"  shared with the captioner {shared / cameras / 1024:.0f}")


def _grabbers() -> list[int]:
    """Grandchildren of this process: what its fork server has forked."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                after_name = (entry / "stat").read_text().rsplit(")")[-1]
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(after_name.split()[1])
    ours = multiprocessing.current_process().pid
    servers = {pid for pid, parent in parents.items() if parent == ours}
    return [pid for pid, parent in parents.items() if parent in servers]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("video", type=Path, nargs="?", help="else a clip of 1920 x 1080")
    parser.add_argument("--cameras", type=int, default=16)
    given = parser.parse_args()
    print_environment()
    with tempfile.TemporaryDirectory() as folder:
        compare_processor(given.video or full_hd_clip(Path(folder)))
    if given.cameras:
        measure_memory(given.cameras)


if __name__ == "__main__":
    main()
