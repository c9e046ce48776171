"""Eight cameras, of which one is stopped: what the other seven lose.

    python -m benchmarks.stopped_camera [--ultralytics]

Eight real RTSP servers stream a clip of 5 frames a second; after ``BEFORE_S`` the
first is stopped (SIGSTOP, as a hung camera) for ``STOPPED_S``, then goes on. Watchword's capture
and, with ``--ultralytics``, ultralytics' ``LoadStreams`` (its default settings; in the extra
``bench``) watch such servers one after the other; both are asked for every frame. Last, grabbers of
Watchword's are killed (SIGKILL, SIGSEGV), and the time to their camera's next frame is taken.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from benchmarks.clips import LIGHT_FPS, light_clip
from pipeline.capture import CameraSpec, Capture
from pipeline.channel import Channel
from pipeline.config import CaptureConfig
from pipeline.messages import CameraEvent, FrameRef
from pipeline.sources import parse_source
from tests.rtsp_server import RtspServer

CAMERAS = 8
CLIP = "light.mp4"
BEFORE_S, STOPPED_S, AFTER_S = 10.0, 20.0, 10.0
KILLS = (signal.SIGKILL, signal.SIGSEGV) * 2  # five a minute are allowed

Frames = list[tuple[float, int]]
"""Monotonic time and camera of each frame that a consumer got."""
Watch = Callable[[list[RtspServer], Callable[[], float]], Frames]


def watch_with_watchword(servers: list[RtspServer], script: Callable[[], float]) -> Frames:
    frames: Frames = []
    events: list[tuple[float, CameraEvent]] = []
    inbox: Channel[FrameRef] = Channel("frames", 30, on_drop=lambda ref, _: capture.release(ref))
    config = CaptureConfig(analysis_fps=1000, queue_frames=30)
    specs = [
        CameraSpec(str(index), parse_source(server.url(CLIP)), config)
        for index, server in enumerate(servers)
    ]
    capture = Capture(specs, 224, inbox, lambda event: events.append((time.monotonic(), event)))
    over = threading.Event()

    def consume() -> None:
        while not over.is_set():
            for ref in inbox.take(64, 0.2):
                frames.append((time.monotonic(), int(ref.stamp.camera)))
                capture.release(ref)

    consumer = threading.Thread(target=consume)
    capture.start()
    consumer.start()
    while not all(status.up for status in capture.status().values()):
        time.sleep(0.1)
    stopped_s = script()
    seen = len(frames)
    back_s = [time_to_be_back(capture, frames, number) for number in KILLS]
    over.set()
    consumer.join()
    lost = {name: dict(account.dropped) for name, account in capture.accounts().items()}
    capture.close()
    for at_s, event in events:
        after = at_s - stopped_s
        print(f"  {event.state.value:8s} {after:5.1f} s after the stop: {event.reason}")
    print(f"  dropped, by its own books: {lost}")
    print(f"  a killed grabber's camera back after {', '.join(f'{each:.2f}' for each in back_s)} s")
    return frames[:seen]


def time_to_be_back(capture: Capture, frames: Frames, number: signal.Signals) -> float:
    """Seconds from the death of the second camera's grabber to that camera's next frame."""
    old = child_of(capture)
    os.kill(old, number)
    killed_s = time.monotonic()
    while child_of(capture) in (old, 0):
        time.sleep(0.01)
    seen = len(frames)  # all that the dead one had sent has come long since
    while 1 not in (camera for _, camera in frames[seen:]):
        time.sleep(0.01)
    back_s = next(at_s for at_s, camera in frames[seen:] if camera == 1)
    time.sleep(2.0)
    return back_s - killed_s


def child_of(capture: Capture) -> int:
    """Process id of the second camera's grabber, 0 while there is none."""
    process = capture._feeds["1"].process
    try:
        return 0 if process is None else process.pid or 0
    except ValueError:  # just closed
        return 0


def watch_with_ultralytics(servers: list[RtspServer], script: Callable[[], float]) -> Frames:
    # Its settings stay out of the user's folder, and nothing is sent anywhere.
    quiet = {"YOLO_CONFIG_DIR": tempfile.mkdtemp(), "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false"}
    os.environ |= quiet
    try:
        from ultralytics.data.loaders import LoadStreams
    except ImportError as error:
        raise SystemExit(f"{error}; pip install 'watchword[bench]' has it") from None
    frames: Frames = []
    with tempfile.NamedTemporaryFile("w", suffix=".streams") as file:
        file.write("\n".join(server.url(CLIP) for server in servers))
        file.flush()
        loader = LoadStreams(file.name)
    over = threading.Event()

    def consume() -> None:
        for _, images, _ in loader:
            now_s = time.monotonic()
            frames.extend((now_s, index) for index, image in enumerate(images) if image.any())
            if over.is_set():
                return

    threading.Thread(target=consume, daemon=True).start()
    script()
    over.set()
    loader.running = False
    return frames


def report(name: str, frames: Frames, stopped_s: float) -> None:
    phases = {
        "before": (stopped_s - BEFORE_S + 2.0, stopped_s),
        "stopped": (stopped_s + 0.5, stopped_s + STOPPED_S),
    }
    rates = {}
    for phase, (begin_s, end_s) in phases.items():
        counts = Counter(camera for at_s, camera in frames if begin_s <= at_s < end_s)
        rates[phase] = [counts[camera] / (end_s - begin_s) for camera in range(CAMERAS)]
    before, during = (sum(rates[phase][1:]) / (CAMERAS - 1) for phase in phases)
    end_s = stopped_s + STOPPED_S
    times = [at_s for at_s, camera in frames if camera and stopped_s < at_s < end_s]
    times = [stopped_s, *times, end_s]
    gaps = [after - before for before, after in pairwise(times)]
    print(f"{name}: the seven others, frames a second each")
    print(f"  before {before:6.2f}   while one is stopped {during:6.2f}   {during / before:7.1%}")
    sent = LIGHT_FPS * (STOPPED_S - 0.5)
    got = [rate * (STOPPED_S - 0.5) for rate in rates["stopped"][1:]]
    lost = [max(0.0, 1.0 - count / sent) for count in got]
    print(
        f"  lost of {sent:.0f} frames each while one is stopped: mean {sum(lost) / len(lost):.1%}, "
        f"most {max(lost):.1%}"
    )
    print(f"  slowest of the seven while one is stopped {min(rates['stopped'][1:]):6.2f}")
    print(f"  longest time without a frame from any of them {max(gaps):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ultralytics", action="store_true")
    systems = {"Watchword": watch_with_watchword}
    if parser.parse_args().ultralytics:
        systems["ultralytics LoadStreams"] = watch_with_ultralytics
    with tempfile.TemporaryDirectory() as folder:
        light_clip(Path(folder), CLIP)
        for name, watch in systems.items():
            compare(name, watch, Path(folder))


def compare(name: str, watch: Watch, folder: Path) -> None:
    moments: list[float] = []
    with ExitStack() as stack:
        servers = [stack.enter_context(RtspServer(folder)) for _ in range(CAMERAS)]

        def script() -> float:
            time.sleep(BEFORE_S)
            servers[0].hang()
            moments.append(time.monotonic())
            time.sleep(STOPPED_S)
            servers[0].resume()
            time.sleep(AFTER_S)
            return moments[0]

        report(name, watch(servers, script), moments[0])


if __name__ == "__main__":
    main()
