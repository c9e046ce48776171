"""A short video of the seconds around each alert, out of small pictures kept in memory."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.alerts.clip_file import ClipFrame, write_clip
from pipeline.alerts.faces import FaceFinder
from pipeline.alerts.media_folder import MediaFolder
from pipeline.config import ClipConfig
from pipeline.messages import Alert, FrameStamp

__all__ = ["ClipRecorder"]

log = logging.getLogger(__name__)

_JPEG_QUALITY = 80
_LAG_S = 30.0
"""An alert comes later than its frame: so long the seconds before it are kept."""
_PATIENCE_S = 10.0
"""A camera that gives no frame for so long ends its clips as they are."""
_MAX_WAITING = 32
"""Finished clips that wait to be written; what comes beyond has no clip."""
_LAST_WORK_S = 60.0
_LOOK_EVERY_S = 0.5


@dataclass(slots=True)
class _Ring:
    """The newest pictures of one camera; ``used_s`` is when one came, monotonic."""

    used_s: float = 0.0
    frames: deque[ClipFrame] = field(default_factory=deque)
    size: int = 0

    def add(self, frame: ClipFrame, oldest_s: float, max_bytes: int) -> None:
        if self.frames and frame.time_s < self.frames[-1].time_s:
            self.frames.clear()  # the source began anew
            self.size = 0
        self.frames.append(frame)
        self.size += len(frame.jpeg)
        while self.size > max_bytes or self.frames[0].time_s < oldest_s:
            if len(self.frames) == 1:
                return
            self.size -= len(self.frames.popleft().jpeg)


@dataclass(slots=True, eq=False)
class _Clip:
    """A clip that grows until it is ``whole``; ``grown_s`` is when it last did, monotonic."""

    alert: Alert
    until_s: float
    frames: list[ClipFrame]
    grown_s: float
    whole: bool = False
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = sum(len(frame.jpeg) for frame in self.frames)

    def add(self, frame: ClipFrame, max_bytes: int) -> None:
        self.frames.append(frame)
        self.size += len(frame.jpeg)
        self.whole = frame.time_s >= self.until_s or self.size >= max_bytes


class ClipRecorder:
    """Keeps the last seconds of every camera and writes those around the start of an alert.

    Frames come from one thread and alerts from another; a third writes. Memory is bounded: by
    ``config.memory_mib`` for each camera, and by the number of clips that may wait. A clip that
    is not written when the process is killed is lost; its alert is not.

    Args:
        config: How long and how large.
        folder: Where clips go.
        faces: Blurs faces in them; None leaves them.
        monotonic_s: Injected in tests.

    """

    def __init__(
        self,
        config: ClipConfig,
        folder: MediaFolder,
        faces: FaceFinder | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._folder = folder
        self._faces = faces
        self._monotonic_s = monotonic_s
        self._max_bytes = int(config.memory_mib * 2**20)
        self._lock = threading.Lock()
        self._rings: dict[str, _Ring] = {}
        self._growing: list[_Clip] = []
        self._finished: queue.Queue[_Clip] = queue.Queue(_MAX_WAITING)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchword-clips", daemon=True)

    def start(self) -> None:
        """Start the thread that writes."""
        self._thread.start()

    def frame(self, stamp: FrameStamp, picture: NDArray[np.uint8]) -> None:
        """Take a looked-at frame, (H, W, 3) uint8 RGB, masks already black; it is copied."""
        settings = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), settings)
        frame = ClipFrame(stamp.time_s, jpeg.tobytes())
        oldest_s = stamp.time_s - self._config.before_s - _LAG_S
        now_s = self._monotonic_s()
        with self._lock:
            ring = self._rings.setdefault(stamp.camera, _Ring())
            ring.add(frame, oldest_s, self._max_bytes)
            ring.used_s = now_s
            for clip in self._growing:
                if clip.alert.stamp.camera == stamp.camera:
                    clip.add(frame, self._max_bytes)
                    clip.grown_s = now_s
        self._hand_over(lambda clip: clip.whole)

    def begin(self, alert: Alert) -> None:
        """Make a clip of the seconds around the caption that started an alert."""
        stamp = alert.stamp
        from_s = stamp.time_s - self._config.before_s
        until_s = stamp.time_s + self._config.after_s
        with self._lock:
            ring = self._rings.get(stamp.camera, _Ring())
            frames = [frame for frame in ring.frames if from_s <= frame.time_s <= until_s]
            # Where a recording is read faster than it is captioned, all of it may be there.
            whole = bool(ring.frames) and ring.frames[-1].time_s >= until_s
            self._growing.append(_Clip(alert, until_s, frames, self._monotonic_s(), whole))
        self._hand_over(lambda clip: clip.whole)

    def path(self, alert: Alert) -> Path:
        """Where an alert's clip lies once it is written."""
        return self._folder.path(alert)

    def close(self) -> None:
        """Write what there is, and end the thread. Idempotent."""
        self._hand_over(lambda clip: True)
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(_LAST_WORK_S)
        if left := self._finished.qsize():
            log.warning("%d clips of alerts are not written: it took too long", left)

    def _hand_over(self, ready: Callable[[_Clip], bool]) -> None:
        with self._lock:
            done = [clip for clip in self._growing if ready(clip)]
            self._growing = [clip for clip in self._growing if clip not in done]
        for clip in done:
            try:
                self._finished.put_nowait(clip)
            except queue.Full:
                log.warning("alert %s gets no clip: too many wait to be written", clip.alert.id)

    def _run(self) -> None:
        while True:
            self._forget_silent_cameras()
            try:
                self._write(self._finished.get(timeout=_LOOK_EVERY_S))
            except queue.Empty:
                if self._ending.is_set():
                    return

    def _forget_silent_cameras(self) -> None:
        now_s = self._monotonic_s()
        patience_s = self._config.after_s + _PATIENCE_S
        self._hand_over(lambda clip: now_s - clip.grown_s > patience_s)
        with self._lock:
            silent = [n for n, ring in self._rings.items() if now_s - ring.used_s > _LAG_S]
            for name in silent:
                del self._rings[name]

    def _write(self, clip: _Clip) -> None:
        if not clip.frames:
            return
        try:
            self._folder.keep(clip.alert, lambda path: write_clip(path, clip.frames, self._faces))
        except Exception:  # the thread lives on for the next one
            log.exception("alert %s gets no clip", clip.alert.id)
