"""What one camera costs: processor time against bare decoding, and memory.

    python -m benchmarks.grabber_cost [VIDEO] [--cameras 16] [--memory-alone]

Processor time: the grabber over the whole file (2.5 frames looked at a second, shrunk, judged and
handed over) against a bare loop of ``VideoCapture.grab()``, and against key frames alone; the least
of seven rounds each, in turn. Memory: that many live cameras of small pictures at once from one
server, and four of the clip above, each as its proportional share (PSS: pages that several have
are divided among them) of the grabbers, the server that forks them, and shared memory.
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
from benchmarks.replay_server import serving
from pipeline.capture import CameraSpec, Capture
from pipeline.channel import Channel
from pipeline.config import CaptureConfig
from pipeline.grab_messages import Delivered, Ended, Failed, GrabJob, Grant, Stop
from pipeline.grabber import Grabber
from pipeline.messages import FrameRef
from pipeline.readers import quiet_libraries
from pipeline.slots import FrameSlots
from pipeline.sources import parse_source

ROUNDS = 7
SQUARE_PIXELS = 224
LARGE_CAMERAS = 4  # of large pictures, as decoding them takes a core


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


def memory_kib(pid: int) -> tuple[int, int]:
    """Private and proportional memory of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return sizes["Private_Clean"] + sizes["Private_Dirty"], sizes["Pss"]


def measure_memory(cameras: int, clip: Path) -> None:
    inbox: Channel[FrameRef] = Channel("frames", 2, on_drop=lambda ref, _: capture.release(ref))
    with serving([clip]) as server:
        config = CaptureConfig(open_timeout_s=60.0, stale_after_s=60.0)
        source = parse_source(server.url(clip))
        specs = [CameraSpec(f"c{index}", source, config) for index in range(cameras)]
        capture = Capture(specs, SQUARE_PIXELS, inbox, lambda _: None)
        capture.start()
        deadline_s = time.monotonic() + 120.0
        while not all(status.up for status in capture.status().values()):
            if time.monotonic() > deadline_s:
                raise SystemExit("not all cameras came up")
            take_for(capture, inbox, 0.2)
        take_for(capture, inbox, 5.0)
        servers, grabbers = _children()
        # Measured while all of them live, as each has a share in what the others map.
        sizes = [memory_kib(pid) for pid in grabbers]
        server_kib = sum(memory_kib(pid)[1] for pid in servers)
        infos = {status.info for status in capture.status().values()}
        capture.close()
    size = next(f"{info.width}x{info.height}" for info in infos if info is not None)
    private, shares = ([size[index] for size in sizes] for index in (0, 1))
    each_kib = (sum(shares) + server_kib) / cameras
    print(f"{len(sizes)} grabbers of {size} pictures; KiB a camera:")
    print(f"  private: median {np.median(private):.0f}, most {max(private)}")
    print(f"  proportional, with the shared memory it writes: median {np.median(shares):.0f}")
    print(f"  with its part of what forks them ({server_kib} in all): {each_kib:.0f}")
    print(f"  so 16 GiB hold {16 * 2**20 / each_kib:.0f}")


def take_for(capture: Capture, inbox: Channel[FrameRef], seconds: float) -> None:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        for ref in inbox.take(64, 0.2):
            capture.release(ref)


def _children() -> tuple[list[int], list[int]]:
    """Children of this process, of which one forks the grabbers, and their children."""
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
    grabbers = [pid for pid, parent in parents.items() if parent in servers]
    return sorted({parents[pid] for pid in grabbers}), grabbers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("video", type=Path, nargs="?", help="else a clip of 1920 x 1080")
    parser.add_argument("--cameras", type=int, default=16)
    parser.add_argument("--memory-alone", action="store_true")
    given = parser.parse_args()
    print_environment()
    with tempfile.TemporaryDirectory() as folder:
        video = given.video or full_hd_clip(Path(folder))
        if not given.memory_alone:
            compare_processor(video)
        if given.cameras:
            measure_memory(given.cameras, Path(folder, light_clip(Path(folder))))
            measure_memory(min(given.cameras, LARGE_CAMERAS), video.resolve())


if __name__ == "__main__":
    main()
