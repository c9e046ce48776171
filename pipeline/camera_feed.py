"""One camera as the main process sees it: its slots, its grabber child, its books."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

from pipeline.channel import Overflow
from pipeline.config import CaptureConfig, Polygon
from pipeline.grab_messages import CaptureAccount, GrabJob, Grant, Progress, SourceInfo, Stop
from pipeline.messages import FrameRef
from pipeline.restarts import RestartPolicy
from pipeline.sight import Blindness
from pipeline.slots import FrameSlots, SlotLayout, fitting_slots
from pipeline.sources import Source

__all__ = ["CameraFeed", "CameraSpec", "CameraStatus", "FeedState"]


@dataclass(frozen=True, slots=True)
class CameraSpec:
    """A camera to capture.

    ``start_time`` (aware) says when a recording began, if known; ``masks`` are painted black.
    """

    name: str
    source: Source
    capture: CaptureConfig = field(default_factory=CaptureConfig)
    start_time: datetime | None = None
    masks: tuple[Polygon, ...] = ()

    @property
    def overflow(self) -> Overflow:
        """What a full lane does: files wait, live drops the oldest, unless configured."""
        if self.capture.overflow is not None:
            return self.capture.overflow
        return Overflow.DROP_OLDEST if self.source.live else Overflow.WAIT


class FeedState(str, Enum):
    """What a camera is doing."""

    QUEUED = "queued"
    OPENING = "opening"
    RUNNING = "running"
    RETRYING = "retrying"
    FAILED = "failed"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """A camera at one moment; ``up`` is whether new frames come. ``error`` holds no secrets."""

    state: FeedState
    up: bool
    info: SourceInfo | None
    last_frame_at: datetime | None
    position_s: float | None
    reconnects: int
    timestamp_faults: int
    blind: Blindness | None
    error: str | None


class CameraFeed:
    """State of one camera. All but :meth:`release` is for the capture thread alone.

    A slot is with the pipeline (*lent*), with the child (*granted*), or free; a slot that a dead
    child held is free again, since no message about it will ever come. There are none before
    :meth:`allot`: of a thousand recordings only those that are read now need memory.
    """

    def __init__(self, spec: CameraSpec, square_pixels: int, slots: int) -> None:
        self.spec = spec
        self._size = (slots, square_pixels, spec.capture.preview_pixels)
        self._slots: FrameSlots | None = None
        budget, window_s = spec.capture.restart_budget, spec.capture.restart_window_s
        self.restarts = RestartPolicy(budget, window_s, random.Random())
        self.state = FeedState.QUEUED
        self.connection: Connection | None = None
        self.process: BaseProcess | None = None
        self.info: SourceInfo | None = None
        self.error: str | None = None
        self.warned: str | None = None
        self.offline_since: datetime | None = None
        self.last_frame_at: datetime | None = None
        self.position_s: float | None = None
        self.blind: Blindness | None = None
        self.reconnects = 0
        self.first_sequence = 0
        self._timestamp_faults, self._earlier_timestamp_faults = 0, 0
        self.started_s = 0.0
        self.retry_at_s: float | None = None
        self.newest_s = 0.0
        """When the last new frame came: opening the source again does not make it younger."""
        self.stirred_s = 0.0
        """When its child last did anything new: was started, opened the source, had a frame."""
        self.came_frame = False
        self.slow_opens = 0
        self.dying_reason: str | None = None
        self._settled = CaptureAccount()
        self._current = CaptureAccount()
        self._lock = threading.Lock()
        self._lent: set[int] = set()
        self._granted: set[int] = set()

    @property
    def slots(self) -> FrameSlots:
        """The slots; only after :meth:`allot`."""
        assert self._slots is not None
        return self._slots

    @property
    def allotted(self) -> bool:
        """Whether it has its slots."""
        return self._slots is not None

    @property
    def over(self) -> bool:
        """Whether nothing more will ever come of it, well or not."""
        ended = self.state in (FeedState.FINISHED, FeedState.FAILED)
        return ended and not self.spec.source.live

    def allot(self, fewest: int = 1, promised_bytes: int = 0) -> None:
        """Make the slots: a live camera's all, of a recording's at least ``fewest``.

        ``promised_bytes`` of shared memory are others' that have not written theirs yet.

        Raises:
            SharedMemoryFull: There is no room for them.

        """
        layout = SlotLayout("", *self._size)
        fewest = layout.slots if self.spec.source.live else min(fewest, layout.slots)
        fit = fitting_slots(layout, fewest, promised_bytes)
        self._slots = FrameSlots.create(self.spec.name, fit, *self._size[1:])

    def start(self, context: BaseContext, target: Callable[..., None], now_s: float) -> None:
        """Start a grabber child and grant it every slot that is not lent."""
        ours, theirs = context.Pipe()
        job = GrabJob(
            camera=self.spec.name,
            source=self.spec.source,
            config=self.spec.capture,
            layout=self.slots.layout,
            first_sequence=self.first_sequence + self.account().grabbed,
            start_time=None if self.spec.source.live else self.spec.start_time,
            masks=self.spec.masks,
            waits=self.spec.overflow is Overflow.WAIT,
        )
        # BaseContext does not declare Process; every concrete context has it.
        process = context.Process(  # type: ignore[attr-defined]
            target=target, args=(theirs, job), name=f"grabber-{self.spec.name}", daemon=True
        )
        process.start()
        theirs.close()
        self.state, self.process = FeedState.OPENING, process
        self.started_s = self.stirred_s = now_s
        self.retry_at_s, self.came_frame, self.dying_reason = None, False, None
        with self._lock:
            self.connection = ours
            self._granted.clear()
            self._grant(set(range(self.slots.layout.slots)) - self._lent)

    def take_over(self, old: CameraFeed) -> None:
        """Go on where the same camera was before it was changed: what was told, what counted."""
        self.offline_since, self.blind = old.offline_since, old.blind
        self.reconnects, self.last_frame_at = old.reconnects, old.last_frame_at
        self.newest_s, self.stirred_s = old.newest_s, old.stirred_s
        if self.spec.source.live:
            self.first_sequence = old.first_sequence + old.account().grabbed

    def book(self, progress: Progress) -> None:
        """Take over a child's counts; each message carries all it has counted."""
        self._current = progress.account
        self._timestamp_faults = progress.timestamp_faults
        self.newest_s = max(self.newest_s, progress.newest_ns / 1e9)
        self.stirred_s = max(self.stirred_s, self.newest_s)

    def book_undeliverable(self) -> None:
        """One delivered frame was not taken: the run is being cut short."""
        self._settled += CaptureAccount(delivered=-1, dropped={"aborted": 1})

    def account(self) -> CaptureAccount:
        """Where this camera's frames went, over all its children."""
        return self._settled + self._current

    def lend(self, ref: FrameRef) -> None:
        """Note that a filled slot came from the child: it is the pipeline's until released."""
        with self._lock:
            self._granted.discard(ref.slot)
            self._lent.add(ref.slot)

    def release(self, slot: int) -> None:
        """Take a slot back and grant it to the child; any thread may call."""
        with self._lock:
            if slot in self._lent:
                self._lent.discard(slot)
                self._grant({slot})

    @property
    def lends(self) -> bool:
        """Whether frames of it are with the pipeline."""
        with self._lock:
            return bool(self._lent)

    def waits_for_slot(self) -> bool:
        """Whether the child can do nothing because the pipeline holds all slots."""
        with self._lock:
            return not self._granted

    def ask_to_stop(self) -> None:
        """Tell the child to end by itself."""
        with self._lock:
            if self.connection is not None:
                with contextlib.suppress(OSError):
                    self.connection.send(Stop())

    def kill(self) -> None:
        """End the child at once; what it had sent is still read until the pipe ends."""
        if self.process is not None:
            self.process.kill()

    def child_gone(self) -> None:
        """Reap the child whose pipe has ended, and settle its books."""
        with self._lock:
            if self.connection is not None:
                self.connection.close()
            self.connection = None
            self._granted.clear()
        if self.process is not None:
            self.process.join(2.0)
            if self.process.is_alive():
                self.process.kill()
                self.process.join()
            self.process.close()
        self.process = None
        self._settled += self._current
        self._current = CaptureAccount()
        self._earlier_timestamp_faults += self._timestamp_faults
        self._timestamp_faults = 0

    def status(self) -> CameraStatus:
        """Return what to show of this camera."""
        up = self.state is FeedState.RUNNING and self.came_frame and self.offline_since is None
        return CameraStatus(
            self.state,
            up,
            self.info,
            self.last_frame_at,
            self.position_s,
            self.reconnects,
            self._earlier_timestamp_faults + self._timestamp_faults,
            self.blind,
            self.error,
        )

    def _grant(self, slots: set[int]) -> None:
        if self.connection is None or not slots:
            return
        self._granted |= slots
        with contextlib.suppress(OSError):  # the child has died; its end is seen when reading
            self.connection.send(Grant(tuple(sorted(slots))))
