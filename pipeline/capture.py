"""The capture stage: one thread that starts, hears, watches and restarts all grabber children.

Its messages are the only source of the accounting. A child counts a frame when its fate is
settled and sends all its counts with every message, so each message balances; what a killed child
had counted since its last message is lost from both sides of the equation (at most half a second
of a live camera; a file's next child grabs those frames again, from the last settled one).
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from typing import Any

from pipeline.camera_feed import CameraFeed, CameraSpec, CameraStatus, FeedState
from pipeline.channel import Channel, ChannelClosed, Overflow
from pipeline.grab_messages import (
    CaptureAccount,
    Delivered,
    Ended,
    Failed,
    GrabJob,
    Opened,
    Progress,
)
from pipeline.messages import CameraEvent, CameraState, FrameRef
from pipeline.slots import FrameSlots, SlotLayout

__all__ = ["CameraSpec", "CameraStatus", "Capture", "CaptureAccount", "FeedState"]

log = logging.getLogger(__name__)

_IN_FLIGHT_SLOTS = 4
_FILE_SLOTS = 16
_OPEN_GRACE_S = 4.0  # beyond the open time-out: start of the child, and asking why it failed
_FILE_PATIENCE_S = 30.0
_STALE_MARGIN_S = 0.2  # so that the report itself is out by stale_after_s
_STOP_GRACE_S = 2.0
_PRELOAD = ["__main__", "numpy", "cv2", "pipeline.grabber", "pipeline.capture"]


class Capture:
    """Captures every camera into lanes of ``inbox`` (lane = camera name).

    Args:
        specs: The cameras.
        square_pixels: Side of the encoder's square.
        inbox: Where frames go. Whoever takes or drops one owes :meth:`release`.
        on_event: Told when a camera goes offline and comes back, from the capture thread.
        clock: Monotonic seconds.
        max_open_files: How many finite sources are grabbed at once; the others wait their turn.

    """

    def __init__(
        self,
        specs: Sequence[CameraSpec],
        square_pixels: int,
        inbox: Channel[FrameRef],
        on_event: Callable[[CameraEvent], None],
        clock: Callable[[], float] = time.monotonic,
        max_open_files: int = 8,
    ) -> None:
        self._square_pixels = square_pixels
        self._inbox = inbox
        self._on_event = on_event
        self._clock = clock
        self._max_open_files = max_open_files
        self._context = _grabber_context()
        self._feeds: dict[str, CameraFeed] = {}
        self._removed: list[CameraFeed] = []
        self._commands: deque[Callable[[], None]] = deque()
        self._wake_reader, self._wake_writer = multiprocessing.Pipe(duplex=False)
        self._wake_lock = threading.Lock()
        self._stopping = False
        self._kill_at_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="watchword-capture")
        self.finished = threading.Event()
        self.error: Exception | None = None
        for spec in specs:
            self._feeds[spec.name] = self._new_feed(spec)

    def start(self) -> None:
        """Start the thread, which starts the children."""
        _allow_descriptors(16 * len(self._feeds) + 256)
        self._thread.start()

    def stop(self) -> None:
        """End all children and the thread; what they had sent is still delivered. Idempotent."""
        self._command(self._begin_stop)
        if self._thread.ident is not None:
            self._thread.join()

    def close(self) -> None:
        """Stop, and free the shared memory: after this no frame can be read any more."""
        self.stop()
        for feed in [*self._feeds.values(), *self._removed]:
            feed.slots.close()
            feed.slots.unlink()
        self._removed.clear()

    def add(self, spec: CameraSpec) -> None:
        """Begin to capture one more camera.

        Raises:
            ValueError: The name is taken.

        """
        if spec.name in self._feeds:
            raise ValueError(f"camera {spec.name!r} is there already")
        feed = self._new_feed(spec)
        self._feeds = {**self._feeds, spec.name: feed}  # readers in other threads see old or new
        self.finished.clear()
        self._command(lambda: None)

    def remove(self, camera: str) -> None:
        """Capture a camera no more; its shared memory lasts until :meth:`close`."""
        feed = self._feeds[camera]

        def forget() -> None:
            feed.kill()
            feed.child_gone()
            self._removed.append(feed)
            self._feeds = {name: kept for name, kept in self._feeds.items() if name != camera}
            for ref in self._inbox.remove_lane(camera):
                feed.release(ref.slot)

        self._command(forget)

    def release(self, ref: FrameRef) -> None:
        """Give a frame's slot back; any thread, once for every frame taken or dropped."""
        feed = self._feeds.get(ref.stamp.camera)
        if feed is not None:
            feed.release(ref.slot)

    def slots(self, camera: str) -> FrameSlots:
        """Return a camera's slots, to read pictures in this process."""
        return self._feeds[camera].slots

    def layout(self, camera: str) -> SlotLayout:
        """Return where a camera's slots lie, for a child that attaches."""
        return self._feeds[camera].slots.layout

    def accounts(self) -> dict[str, CaptureAccount]:
        """Where each camera's frames went."""
        return {name: feed.account() for name, feed in self._feeds.items()}

    def status(self) -> dict[str, CameraStatus]:
        """How each camera is."""
        return {name: feed.status() for name, feed in self._feeds.items()}

    def errors(self) -> dict[str, str]:
        """One sentence for each camera that does not work now, or never did."""
        return {name: feed.error for name, feed in self._feeds.items() if feed.error is not None}

    def all_finished(self) -> bool:
        """Whether every source was finite and is over, well or not."""
        return self.finished.is_set()

    def _run(self) -> None:
        try:
            while not self._is_done():
                self._start_due()
                ready = wait(self._connections(), self._seconds_to_next_deadline())
                for connection in ready:
                    self._hear(connection)
                self._watch()
        except Exception as error:
            log.debug("capture failed", exc_info=error)
            self.error = error
            self._inbox.close()
        finally:
            for feed in self._feeds.values():
                feed.kill()
                feed.child_gone()
            self.finished.set()

    def _is_done(self) -> bool:
        if self._stopping and not any(feed.process for feed in self._feeds.values()):
            return True
        over = (FeedState.FINISHED, FeedState.FAILED)
        feeds = self._feeds.values()
        if all(not feed.spec.source.live and feed.state in over for feed in feeds):
            self.finished.set()  # the thread stays, for cameras added later
        return False

    def _connections(self) -> list[Any]:
        live = [feed.connection for feed in self._feeds.values() if feed.connection is not None]
        return [*live, self._wake_reader]

    def _start_due(self) -> None:
        if self._stopping:
            return
        now_s = self._clock()
        busy = sum(1 for feed in self._feeds.values() if feed.process and not feed.spec.source.live)
        for feed in self._feeds.values():
            queued = feed.state is FeedState.QUEUED
            retry = feed.retry_at_s is not None and now_s >= feed.retry_at_s
            if feed.process is not None or not (queued or retry):
                continue
            if not feed.spec.source.live:
                if busy >= self._max_open_files:
                    continue
                busy += 1
            feed.reconnects += int(retry)
            feed.start(self._context, _run_grabber, now_s)

    def _seconds_to_next_deadline(self) -> float:
        now_s = self._clock()
        deadlines = [now_s + 0.5]
        for feed in self._feeds.values():
            if feed.retry_at_s is not None:
                deadlines.append(feed.retry_at_s)
            elif feed.process is not None:
                deadlines.append(feed.newest_s + self._patience_s(feed))
        if self._kill_at_s is not None:
            deadlines.append(self._kill_at_s)
        return max(0.005, min(deadlines) - now_s)

    def _hear(self, connection: object) -> None:
        if connection is self._wake_reader:
            self._obey()
            return
        feed = next((f for f in self._feeds.values() if f.connection is connection), None)
        if feed is None or feed.connection is None:
            return
        try:
            while True:
                self._on_message(feed, feed.connection.recv())
                if not feed.connection.poll():
                    return
        except (EOFError, OSError):
            self._on_child_gone(feed)

    def _on_message(self, feed: CameraFeed, message: object) -> None:
        if isinstance(message, Opened):
            feed.info, feed.state = message.info, FeedState.RUNNING
            feed.newest_s = self._clock()
        elif isinstance(message, Progress):
            feed.book(message)
        elif isinstance(message, Delivered):
            feed.book(message.progress)
            self._deliver(feed, message.ref)
        elif isinstance(message, Ended):
            feed.book(message.progress)
            feed.state = FeedState.FINISHED
        elif isinstance(message, Failed):
            feed.book(message.progress)
            feed.dying_reason = message.sentence
            feed.retry_at_s = self._clock() + self._retry_delay_s(feed, message)

    def _deliver(self, feed: CameraFeed, ref: FrameRef) -> None:
        feed.lend(ref)
        feed.came_frame = True
        feed.last_frame_at = ref.stamp.captured_at
        feed.position_s = ref.stamp.position_s
        feed.restarts.frame_came()
        self._announce_online(feed)
        overflow = feed.spec.overflow
        capacity = feed.slots.layout.slots if overflow is Overflow.WAIT else None
        try:
            self._inbox.put(ref, feed.spec.name, overflow, capacity)
        except ChannelClosed:
            feed.book_undeliverable()
            feed.release(ref.slot)

    def _retry_delay_s(self, feed: CameraFeed, failure: Failed) -> float:
        if failure.refused:
            return feed.restarts.after_refusal()
        return feed.restarts.after_failure(self._clock())

    def _on_child_gone(self, feed: CameraFeed) -> None:
        came_frame = feed.came_frame
        feed.child_gone()
        if feed.state is FeedState.FINISHED or self._stopping:
            feed.state = FeedState.FINISHED
            return
        if feed.dying_reason is None:
            feed.retry_at_s = self._clock() + feed.restarts.after_crash(self._clock())
            feed.dying_reason = f"{feed.spec.source.display}: the grabber process died"
        elif not feed.spec.source.live:
            feed.retry_at_s = None  # a file that cannot be read will not mend by itself
        feed.error = feed.dying_reason
        self._enter_retry(feed)
        if not came_frame or feed.state is FeedState.FAILED:
            self._announce_offline(feed, feed.dying_reason)

    def _enter_retry(self, feed: CameraFeed) -> None:
        if feed.restarts.exhausted:
            feed.error = f"{feed.dying_reason} too often; it is tried again every 30 s"
        finite = not feed.spec.source.live
        if finite and (feed.restarts.exhausted or feed.retry_at_s is None):
            feed.error, feed.retry_at_s = feed.dying_reason, None
            feed.state = FeedState.FAILED
        else:
            feed.state = FeedState.FAILED if feed.restarts.exhausted else FeedState.RETRYING
        log.warning("camera %s: %s", feed.spec.name, feed.error)

    def _watch(self) -> None:
        now_s = self._clock()
        if self._kill_at_s is not None and now_s >= self._kill_at_s:
            for feed in self._feeds.values():
                feed.kill()
        for feed in self._feeds.values():
            if not feed.spec.source.live and feed.waits_for_slot():
                feed.newest_s = now_s  # it waits for us, not for its source
            quiet_s = now_s - feed.newest_s
            limit_s = feed.spec.capture.stale_after_s - _STALE_MARGIN_S
            if feed.spec.source.live and feed.last_frame_at is not None and quiet_s >= limit_s:
                self._announce_offline(feed, f"no new frame for {quiet_s:.1f} s")
            if feed.process is not None and quiet_s >= self._patience_s(feed):
                self._give_up_child(feed, quiet_s)

    def _patience_s(self, feed: CameraFeed) -> float:
        """How long a child may bring nothing new before it is replaced."""
        if not feed.spec.source.live:
            return max(_FILE_PATIENCE_S, feed.spec.capture.stale_after_s)
        if feed.state is FeedState.OPENING or not feed.came_frame:
            capture = feed.spec.capture
            return max(capture.open_timeout_s, capture.read_timeout_s) + _OPEN_GRACE_S
        return feed.spec.capture.stale_after_s - _STALE_MARGIN_S

    def _give_up_child(self, feed: CameraFeed, quiet_s: float) -> None:
        display = feed.spec.source.display
        feed.dying_reason = f"{display}: no new frame for {quiet_s:.1f} s"
        if feed.spec.source.live:
            feed.retry_at_s = self._clock() + feed.restarts.after_failure(self._clock())
        else:
            feed.dying_reason = None  # counted against the budget, like a death
        feed.newest_s = self._clock()
        feed.kill()

    def _announce_offline(self, feed: CameraFeed, reason: str) -> None:
        if feed.offline_since is not None or not feed.spec.source.live:
            return
        feed.offline_since = datetime.now(timezone.utc)
        feed.error = feed.error or f"{feed.spec.source.display}: {reason}"
        self._emit(feed, CameraState.OFFLINE, reason, feed.offline_since)

    def _announce_online(self, feed: CameraFeed) -> None:
        feed.error = None
        if feed.offline_since is not None:
            feed.offline_since = None
            self._emit(feed, CameraState.ONLINE, "new frames", datetime.now(timezone.utc))

    def _emit(self, feed: CameraFeed, state: CameraState, reason: str, since: datetime) -> None:
        name = feed.spec.name
        self._on_event(CameraEvent(name, state, reason, since, feed.last_frame_at, feed.reconnects))

    def _new_feed(self, spec: CameraSpec) -> CameraFeed:
        waits = spec.overflow is Overflow.WAIT
        slots = _FILE_SLOTS if waits else self._inbox.capacity + _IN_FLIGHT_SLOTS + 2
        return CameraFeed(spec, self._square_pixels, slots)

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        with self._wake_lock, contextlib.suppress(OSError):
            self._wake_writer.send_bytes(b"!")

    def _obey(self) -> None:
        self._wake_reader.recv_bytes()
        while self._commands:
            self._commands.popleft()()

    def _begin_stop(self) -> None:
        self._stopping = True
        self._kill_at_s = self._kill_at_s or self._clock() + _STOP_GRACE_S
        for feed in self._feeds.values():
            feed.retry_at_s = None
            feed.ask_to_stop()


def _run_grabber(connection: Connection, job: GrabJob) -> None:
    """Start of a child; imports OpenCV there, so that the main process need not."""
    from pipeline.grabber import run  # noqa: PLC0415

    run(connection, job)


def _grabber_context() -> BaseContext:
    """Choose a server that has imported OpenCV to fork the children: they share its pages."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context


def _allow_descriptors(wanted: int) -> None:
    """Raise the soft limit of open files: a camera takes about six."""
    if os.name != "posix":
        return
    import resource  # noqa: PLC0415 - there is no such module elsewhere

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
