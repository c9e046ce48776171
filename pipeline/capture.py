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
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any

from pipeline.camera_feed import CameraFeed, CameraSpec, CameraStatus, FeedState
from pipeline.camera_news import CameraNews
from pipeline.channel import Channel, ChannelClosed, Overflow
from pipeline.grab_messages import (
    CaptureAccount,
    Delivered,
    Ended,
    Failed,
    Opened,
    Progress,
    SourceInfo,
)
from pipeline.grabber_start import allow_descriptors, grabber_context, run_grabber
from pipeline.messages import CameraEvent, FrameRef, SourceEnd
from pipeline.revival import note_failure, note_silence, settle_end
from pipeline.segments import Segments, live_slots
from pipeline.slots import FrameSlots, SharedMemoryFull, SlotLayout
from pipeline.sources import SourceKind
from pipeline.staleness import is_stale, patience_s, stale_at_s, waits_for_us

__all__ = ["CameraSpec", "CameraStatus", "Capture", "CaptureAccount", "FeedState", "live_slots"]

log = logging.getLogger(__name__)

_STOP_GRACE_S = 2.0


class Capture:
    """Captures every camera into lanes of ``inbox`` (lane = camera name).

    Args:
        specs: The cameras.
        square_pixels: Side of the encoder's square.
        inbox: Where frames go. Whoever takes or drops one owes :meth:`release`. Behind the last
            frame of a recording that was read to its end comes a :class:`SourceEnd`.
        on_event: Told when a camera goes or comes back, is blind or sighted; from the capture
            thread.
        clock: Monotonic seconds.
        max_open_files: How many finite sources are grabbed at once; the others wait their turn.
            Unset, one a core, at least 2 and at most 8.

    Raises:
        SharedMemoryFull: There is no room for the pictures of all cameras.

    """

    def __init__(
        self,
        specs: Sequence[CameraSpec],
        square_pixels: int,
        inbox: Channel[FrameRef | SourceEnd],
        on_event: Callable[[CameraEvent], None],
        clock: Callable[[], float] = time.monotonic,
        max_open_files: int | None = None,
    ) -> None:
        self._inbox = inbox
        self._news = CameraNews(on_event)
        self._clock = clock
        self._max_open_files = max_open_files or min(8, max(2, _cores()))
        self._context = grabber_context()
        waiting = sum(spec.overflow is Overflow.WAIT for spec in specs)
        self._segments = Segments(square_pixels, max(1, min(waiting, self._max_open_files)))
        # Other threads read these two dicts: they are replaced, never changed in place.
        self._feeds: dict[str, CameraFeed] = {}
        self._past: dict[str, CaptureAccount] = {}  # of cameras removed or changed
        self._commands: deque[Callable[[], None]] = deque()
        self._wake_reader, self._wake_writer = multiprocessing.Pipe(duplex=False)
        self._wake_lock = threading.Lock()
        self._stopping = False
        self._kill_at_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="watchword-capture")
        self.finished = threading.Event()
        self.error: Exception | None = None
        try:
            for spec in specs:
                self._install(self._segments.new_feed(spec))
        except SharedMemoryFull:
            self.close()
            raise

    def start(self) -> None:
        """Start the thread, which starts the children."""
        allow_descriptors(16 * len(self._feeds) + 256)
        self._thread.start()

    def stop(self) -> None:
        """End all children and the thread; what they had sent is still delivered. Idempotent."""
        self._command(self._begin_stop)
        if self._thread.ident is not None:
            self._thread.join()

    def close(self) -> None:
        """Stop, and free the shared memory: after this no frame can be read any more."""
        self.stop()
        self._segments.close()

    def alter(
        self,
        added: Sequence[CameraSpec] = (),
        changed: Sequence[CameraSpec] = (),
        removed: Sequence[str] = (),
    ) -> None:
        """Add, change and remove cameras, all of it or nothing; the others are not touched.

        Raises:
            ValueError: A name is taken.
            SharedMemoryFull: There is no room for their pictures; all go on as before.

        """
        if taken := [spec.name for spec in added if spec.name in self._feeds]:
            raise ValueError(f"camera {taken[0]!r} is there already")
        feeds = self._segments.new_feeds((*changed, *added))

        def exchange() -> None:
            for feed in feeds:
                self._exchange(feed)
            for name in removed:
                if name in self._feeds:  # a resumed run has left out what was finished
                    self._retire(self._feeds[name])

        self._command(exchange)

    def _exchange(self, new: CameraFeed) -> None:
        """Put a feed in the place of the one of its camera that is there, if one is."""
        old = self._feeds.get(new.spec.name)
        if old is not None:
            new.take_over(old)
            self._retire(old)
        self._install(new)

    def release(self, ref: FrameRef) -> None:
        """Give a frame's slot back; any thread, once for every frame taken or dropped."""
        feed = self._segments.feed_of(ref.segment)
        if feed is None:
            return
        feed.release(ref.slot)
        if feed.over or self._feeds.get(feed.spec.name) is not feed:
            self._command(lambda: self._segments.free_if_unused(feed))

    def slots_of(self, ref: FrameRef) -> FrameSlots:
        """Return the slots that an unreleased frame lies in, to read it in this process."""
        feed = self._segments.feed_of(ref.segment)
        assert feed is not None, "a released frame cannot be read"
        return feed.slots

    def layout_of(self, ref: FrameRef) -> SlotLayout:
        """Return where an unreleased frame's slots lie, for a child that attaches."""
        return self.slots_of(ref).layout

    def holds(self, camera: str) -> bool:
        """Whether a camera is captured, or frames of it are still under way."""
        return self._segments.holds(camera)

    def accounts(self) -> dict[str, CaptureAccount]:
        """Where each camera's frames went, those of removed cameras too."""
        accounts = dict(self._past)
        for name, feed in self._feeds.items():
            accounts[name] = accounts.get(name, CaptureAccount()) + feed.account()
        return accounts

    def status(self) -> dict[str, CameraStatus]:
        """How each camera is."""
        return {name: feed.status() for name, feed in self._feeds.items()}

    def errors(self) -> dict[str, str]:
        """One sentence for each camera that does not work now, or never did."""
        return {name: feed.error for name, feed in self._feeds.items() if feed.error is not None}

    def all_finished(self) -> bool:
        """Whether every source was finite and is over, well or not."""
        return not self._commands and self.finished.is_set()  # in this order

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
        held = self._segments.recordings_held()
        for feed in self._feeds.values():
            queued = feed.state is FeedState.QUEUED
            retry = feed.retry_at_s is not None and now_s >= feed.retry_at_s
            if feed.process is not None or not (queued or retry):
                continue
            if not feed.spec.source.live:
                full = not feed.allotted and held >= self._max_open_files
                if full or busy >= self._max_open_files:
                    continue
                held += not feed.allotted
                if not self._make_room(feed):
                    continue
                busy += 1
            feed.reconnects += int(retry)
            feed.start(self._context, run_grabber, now_s)

    def _seconds_to_next_deadline(self) -> float:
        now_s = self._clock()
        deadlines = [now_s + 0.5]
        for feed in self._feeds.values():
            if feed.retry_at_s is not None:
                deadlines.append(feed.retry_at_s)
            elif feed.process is not None:
                deadlines.append(feed.stirred_s + patience_s(feed))
            if feed.offline_since is None:
                deadlines.append(stale_at_s(feed))
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
            self._on_open(feed, message.info)
        elif isinstance(message, Progress):
            self._book(feed, message)
        elif isinstance(message, Delivered):
            feed.last_frame_at = message.ref.stamp.captured_at
            self._book(feed, message.progress)
            self._deliver(feed, message.ref)
        elif isinstance(message, Ended):
            self._book(feed, message.progress)
            feed.state = FeedState.FINISHED
            if message.remark:
                log.warning("camera %s: %s", feed.spec.name, message.remark)
            if not self._stopping and not feed.spec.source.live:
                self._tell_end(feed.spec.name)
        elif isinstance(message, Failed):
            self._book(feed, message.progress)
            note_failure(feed, message, self._clock())

    def _on_open(self, feed: CameraFeed, info: SourceInfo) -> None:
        asked_in_vain = feed.spec.capture.hardware_decoding and not info.hardware
        if asked_in_vain and feed.info is None:  # once, not at every reconnect
            log.warning(
                "camera %s: hardware_decoding is asked for, but this machine has none "
                "that OpenCV can use for this video; the processor decodes it",
                feed.spec.name,
            )
        feed.info, feed.state = info, FeedState.RUNNING
        feed.stirred_s = self._clock()

    def _book(self, feed: CameraFeed, progress: Progress) -> None:
        feed.book(progress)
        self._news.sight(feed, progress.sight)

    def _deliver(self, feed: CameraFeed, ref: FrameRef) -> None:
        feed.lend(ref)
        feed.came_frame, feed.slow_opens = True, 0
        feed.position_s = ref.stamp.position_s
        feed.restarts.frame_came()
        self._news.online(feed)
        overflow = feed.spec.overflow
        waits = overflow is Overflow.WAIT  # then the slots bound it, and putting never blocks
        capacity = feed.slots.layout.slots if waits else feed.spec.capture.queue_frames
        try:
            self._inbox.put(ref, feed.spec.name, overflow, capacity)
        except ChannelClosed:
            feed.book_undeliverable()
            feed.release(ref.slot)

    def _tell_end(self, camera: str) -> None:
        with contextlib.suppress(ChannelClosed):
            self._inbox.put(SourceEnd(camera), camera, Overflow.WAIT, sys.maxsize)

    def _on_child_gone(self, feed: CameraFeed) -> None:
        came_frame = feed.came_frame
        feed.child_gone()
        if feed.state is FeedState.FINISHED or self._stopping:
            feed.state = FeedState.FINISHED
            self._segments.free_if_unused(feed)
            return
        reason = settle_end(feed, self._clock())
        if feed.over:
            self._segments.free_if_unused(feed)
        if not came_frame or feed.state is FeedState.FAILED:
            self._news.offline(feed, reason)

    def _watch(self) -> None:
        now_s = self._clock()
        if self._kill_at_s is not None and now_s >= self._kill_at_s:
            for feed in self._feeds.values():
                feed.kill()
        for feed in self._feeds.values():
            if waits_for_us(feed):
                feed.newest_s = feed.stirred_s = now_s
            if is_stale(feed, now_s):
                self._news.offline(feed, f"no new frame for {now_s - feed.newest_s:.1f} s")
            quiet_s = now_s - feed.stirred_s
            if feed.process is not None and quiet_s >= patience_s(feed):
                note_silence(feed, quiet_s, now_s)

    def _make_room(self, feed: CameraFeed) -> bool:
        """See that a recording whose turn has come has its slots."""
        if not feed.allotted:
            try:
                self._segments.allot(feed)
            except OSError as error:
                feed.error = f"{feed.spec.source.display}: {error}"
                feed.state = FeedState.FAILED
                return False
            self._segments.note(feed)
        return True

    def _install(self, feed: CameraFeed) -> None:
        if feed.spec.source.kind is SourceKind.RTSP and feed.spec.capture.transport == "udp":
            log.warning(
                "camera %s: over UDP lost packets show as damaged pictures; prefer transport: tcp",
                feed.spec.name,
            )
        self._segments.note(feed)
        self._feeds = {**self._feeds, feed.spec.name: feed}
        self.finished.clear()

    def _retire(self, feed: CameraFeed) -> None:
        """End a camera's child and let its frames that are under way come back."""
        name = feed.spec.name
        feed.kill()
        feed.child_gone()
        past = self._past.get(name, CaptureAccount())
        self._past = {**self._past, name: past + feed.account()}
        self._feeds = {other: kept for other, kept in self._feeds.items() if other != name}
        self._inbox.remove_lane(name)
        self._segments.free_if_unused(feed)

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        with self._wake_lock, contextlib.suppress(OSError):
            self._wake_writer.send_bytes(b"!")

    def _obey(self) -> None:
        self._wake_reader.recv_bytes()
        while self._commands:
            self._commands[0]()
            self._commands.popleft()  # only now: until then it counts as not done

    def _begin_stop(self) -> None:
        self._stopping = True
        self._kill_at_s = self._kill_at_s or self._clock() + _STOP_GRACE_S
        for feed in self._feeds.values():
            feed.retry_at_s = None
            feed.ask_to_stop()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
