"""The grabber child: one camera, frames into shared memory, one message a frame.

It may hang or die; the main process kills and replaces it (:mod:`pipeline.capture`).
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from collections import Counter, deque
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.change_gate import ChangeGate
from pipeline.frame_clock import MediaClock, schedule
from pipeline.grab_messages import (
    CaptureAccount,
    Delivered,
    Ended,
    Failed,
    GrabJob,
    Grant,
    Opened,
    Progress,
    SourceInfo,
)
from pipeline.messages import FrameRef, FrameStamp
from pipeline.moving import MotionWatch
from pipeline.mp4_length import mp4_length
from pipeline.open_errors import OpenError
from pipeline.pictures import (
    Picture,
    black_out,
    change_between,
    halve_towards,
    measure,
    preview_size,
    shrink_to,
    thumbnail,
    unmasked,
)
from pipeline.readers import FrameReader, Grab, open_reader, quiet_libraries
from pipeline.recording_time import recorded_at
from pipeline.redaction import redact
from pipeline.sight import SightJudge
from pipeline.slots import FrameSlots, SharedMemoryFull
from pipeline.sources import SourceKind

__all__ = ["Grabber", "run"]

_HEARTBEAT_S = 0.5
# A recording is read on past what is damaged: a grab that fails costs one packet and some 10 us.
# It is given up after so many in a row as it has frames left, but for these bounds: many containers
# only estimate how many they have, too few or far too many.
_FEWEST_BROKEN_IN_A_ROW = 64
_MOST_BROKEN_IN_A_ROW = 10_000
_JUDGE_EVERY_S = 1.0  # it costs as much as shrinking the picture, and seconds are what counts


def run(connection: Connection, job: GrabJob) -> None:
    """Grab until the source ends, fails, or the main process says stop or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to answer
    _send_stderr_nowhere()
    quiet_libraries()
    grabber = Grabber(connection, job)
    try:
        grabber.grab_all()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the main process is gone, and nobody is left to tell
    except OpenError as error:
        sentence = error.without_hint if job.first_sequence else str(error)
        grabber.tell_failure(redact(sentence), error.refused)
    except Exception as error:  # noqa: BLE001 - a child's last words; the main process prints them
        sentence = redact(f"{job.source.display}: grabbing failed: {type(error).__name__}: {error}")
        grabber.tell_failure(sentence)
    connection.close()
    os._exit(0)  # a library's thread may hang; nothing here needs an orderly exit


class Grabber:
    """Grabs, samples, shrinks, hands over. All counting happens here, in one thread."""

    def __init__(self, connection: Connection, job: GrabJob) -> None:
        self._connection = connection
        self._job = job
        self._slots = FrameSlots.attach(job.layout)
        self._inbox = _Inbox(connection)
        self._tally = _Tally()
        self._sampler = schedule(job.config.analysis_fps, job.source.live)
        self._clock = MediaClock(0.0)
        self._reader: FrameReader | None = None
        self._recorded_at = job.start_time
        self._sequence = 0 if not job.source.live else job.first_sequence
        self._newest_ns = 0  # none yet
        self._broken_in_a_row = 0
        self._reached_s = 0.0
        self._last_position_s: float | None = None
        self._started_ns: int | None = None
        self._thumbnail: NDArray[np.uint8] | None = None
        self._gate = ChangeGate(job.config.skip_unchanged_below, job.config.unchanged_period_s)
        self._grey: NDArray[np.uint8] | None = None
        self._keep = unmasked(job.layout.square_pixels, job.masks)
        self._judge = _sight_judge(job)
        self._motion = None if job.source.kind is SourceKind.FOLDER else MotionWatch()
        self._judged_s = float("-inf")
        self._told_at_s = time.monotonic()

    def grab_all(self) -> None:
        """Open the source and grab until it is over."""
        reader = self._reader = open_reader(self._job.source, self._job.config)
        self._clock = MediaClock(reader.info.fps)
        if not self._job.source.live and self._recorded_at is None:
            self._recorded_at = recorded_at(self._job.source, reader.info.duration_s)
        self._connection.send(Opened(reader.info))
        while not self._inbox.stopping:
            grabbed = reader.grab()
            if grabbed is not Grab.END:
                self._book_broken()
            if grabbed is Grab.FRAME:
                self._handle(reader)
            elif grabbed is Grab.SKIPPED:
                self._newest_ns = time.monotonic_ns()
            elif not self._go_on_after_failed_grab(reader.info):
                break
            self._heartbeat()
        self._refuse_a_file_without_pictures()
        remark = self._unread_rest(reader.info)
        self._connection.send(Ended(self._progress(), remark))

    def _refuse_a_file_without_pictures(self) -> None:
        """A file that opens and gives nothing has not been watched: that is no normal end."""
        account = self._tally.account()
        lost = sum(account.failed.values())
        nothing = account.grabbed == lost and self._job.first_sequence == 0
        if nothing and not self._job.source.live and not self._inbox.stopping:
            raise OpenError(
                f"{self._job.source.display}: not one picture in it can be decoded; is it damaged?"
            )

    def tell_failure(self, sentence: str, refused: bool = False) -> None:
        """Say why this child ends."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # main is gone
            self._connection.send(Failed(sentence, self._progress(), refused))

    def _handle(self, reader: FrameReader) -> None:
        now_ns, media_s = self._times(reader)
        time_s = self._seconds_in(now_ns, media_s)
        wanted = self._sampler.take(time_s)
        sequence = self._sequence
        self._sequence += 1
        if sequence < self._job.first_sequence:
            return  # settled before this child took over; grabbed again only to get past it
        if self._motion is not None:
            self._motion.note(time_s)
        if not wanted:
            self._tally.settle("unsampled")
            if self._motion is not None and self._motion.wants(self._sampler.next_s):
                self._motion.keep(self._picture(reader))
            return
        stamp = self._stamp(sequence, now_ns, media_s)
        picture = self._picture(reader)
        if picture is None:
            self._tally.settle("failed", "corrupt")
            return
        self._hand_over(stamp, picture)
        if self._motion is not None and self._motion.wants(self._sampler.next_s):
            self._motion.keep(picture)

    def _picture(self, reader: FrameReader) -> Picture | None:
        """The grabbed frame, masked, and no larger than it is needed; None when it is broken."""
        image = reader.retrieve()
        if image is None:
            return None
        if self._job.masks:
            image = np.ascontiguousarray(image)
            black_out(image, self._job.masks)  # before anything else sees the picture
        layout = self._job.layout
        width, height = preview_size(image.shape[1], image.shape[0], layout.preview_pixels)
        side = layout.square_pixels
        return Picture(halve_towards(image, max(width, side), max(height, side)), width, height)

    def _hand_over(self, stamp: FrameStamp, picture: Picture) -> None:
        slot = self._inbox.take_slot(wait=self._job.waits)
        if slot is None:
            if not self._inbox.stopping:
                self._newest_ns = stamp.captured_monotonic_ns
            self._tally.settle("dropped", "aborted" if self._inbox.stopping else "queue_full")
            return
        ref = self._fill(slot, stamp, picture)
        grey = np.asarray(cv2.cvtColor(self._slots.square(slot), cv2.COLOR_RGB2GRAY), np.uint8)
        small = thumbnail(grey)
        ref = replace(ref, difference=self._change(small))
        if self._is_repeated(ref):
            self._inbox.give_back(slot)
            self._tally.settle("dropped", "stale")
            return
        self._newest_ns = max(self._newest_ns, stamp.captured_monotonic_ns)
        self._judge_sight(stamp, grey)
        if self._gate.skips(small, stamp.time_s):
            self._inbox.give_back(slot)
            self._tally.settle("skipped")
            return
        self._thumbnail = small
        if self._motion is not None:
            ref = replace(ref, scuffle=self._motion.look(picture))
        self._tally.settle("delivered")
        self._told_at_s = time.monotonic()
        self._connection.send(Delivered(ref, self._progress()))

    def _fill(self, slot: int, stamp: FrameStamp, picture: Picture) -> FrameRef:
        layout = self._job.layout
        side = layout.square_pixels
        image, width, height = picture
        self._reserve(slot, width, height)
        small = shrink_to(image, side, side)
        cv2.cvtColor(small, cv2.COLOR_BGR2RGB, dst=self._slots.square(slot))
        preview = shrink_to(image, width, height)
        cv2.cvtColor(preview, cv2.COLOR_BGR2RGB, dst=self._slots.preview(slot, width, height))
        return FrameRef(stamp, slot, width, height, segment=layout.segment)

    def _reserve(self, slot: int, width: int, height: int) -> None:
        try:
            self._slots.reserve(slot, width, height)
        except SharedMemoryFull as error:
            raise OpenError(f"{self._job.source.display}: {error}") from None

    def _change(self, small: NDArray[np.uint8]) -> float | None:
        """How much differs from the frame delivered before, 0..1."""
        return None if self._thumbnail is None else change_between(self._thumbnail, small)

    def _judge_sight(self, stamp: FrameStamp, grey: NDArray[np.uint8]) -> None:
        if self._judge is None or (self._keep is not None and not self._keep.any()):
            return
        if 0.0 <= stamp.time_s - self._judged_s < _JUDGE_EVERY_S:
            return
        self._judged_s = stamp.time_s
        picture = measure(grey, self._grey, self._keep)
        self._grey = grey
        self._judge.look(picture, stamp.time_s, stamp.captured_at)

    def _times(self, reader: FrameReader) -> tuple[int, float]:
        """Monotonic ns and media time of the grabbed frame; that of a live one only for faults."""
        now_ns = time.monotonic_ns()
        position_s = reader.position_s()
        self._advances = position_s != self._last_position_s
        self._last_position_s = position_s
        if self._advances or not self._job.source.live:
            self._newest_ns = now_ns
        if self._started_ns is None:
            self._started_ns = now_ns
        self._reached_s = self._clock.advance(position_s)
        return now_ns, self._reached_s

    def _stamp(self, sequence: int, now_ns: int, media_s: float) -> FrameStamp:
        camera = self._job.camera
        if self._recorded_at is None:
            return FrameStamp(camera, sequence, datetime.now(timezone.utc), now_ns)
        captured_at = self._recorded_at + timedelta(seconds=media_s)
        return FrameStamp(camera, sequence, captured_at, now_ns, media_s)

    def _seconds_in(self, now_ns: int, media_s: float) -> float:
        if self._recorded_at is not None:
            return media_s
        return (now_ns - (self._started_ns or now_ns)) / 1e9

    def _is_repeated(self, ref: FrameRef) -> bool:
        """Whether a live stream gave an old frame again, as a hung one does for a while."""
        return self._job.source.live and not self._advances and ref.difference == 0.0

    def _no_more(self) -> OpenError:
        """Why a live stream gives no frame: it ended, or its first key frame is not here yet."""
        place, config = self._job.source.display, self._job.config
        if self._started_ns is not None or config.key_frames_only:
            return OpenError(f"{place}: the stream gives no more frames")
        return OpenError(
            f"{place}: the stream gives no picture",
            hint=f"where its key frames lie over {config.read_timeout_s:g} s apart, raise "
            "capture.read_timeout_s",
        )

    def _go_on_after_failed_grab(self, info: SourceInfo) -> bool:
        """Whether to try again; a live stream that gives no frame has failed."""
        if self._job.source.live:
            raise self._no_more()
        self._newest_ns = time.monotonic_ns()  # it does not hang
        self._broken_in_a_row += 1
        left = 0 if info.frames is None else info.frames - self._settled
        limit = min(max(left, _FEWEST_BROKEN_IN_A_ROW), _MOST_BROKEN_IN_A_ROW)
        return self._broken_in_a_row < limit

    @property
    def _settled(self) -> int:
        """How many frames of a recording have their fate, those of earlier children too."""
        return max(self._sequence, self._job.first_sequence)

    def _book_broken(self) -> None:
        """Count the grabs that failed, now that more came behind them: they were frames."""
        known = max(0, min(self._broken_in_a_row, self._job.first_sequence - self._sequence))
        self._tally.settle("failed", "broken", self._broken_in_a_row - known)
        self._sequence += self._broken_in_a_row
        self._broken_in_a_row = 0

    def _unread_rest(self, info: SourceInfo) -> str:
        """Book what a recording that gives no more should still have had, and say so.

        Only the index of an MP4 is taken at its word; elsewhere the number of frames and the
        duration are estimates, which whole recordings miss by far. Where a part of the file itself
        is missing, as after a copy that broke off, all that there is has been read: that is
        remarked on, and no failure. Where the file is all there and yet cannot be read, it is one.

        Raises:
            OpenError: The rest is there and cannot be read.

        """
        source = self._job.source
        if source.kind is not SourceKind.FILE or info.frames is None or self._inbox.stopping:
            return ""
        missing = info.frames - self._settled
        length = mp4_length(Path(source.location))
        if length is None or missing <= max(3, info.frames // 100):
            return ""
        margin_s = max(length.duration_s / 100, 3 / max(info.fps, 1.0))
        if self._reached_s >= length.duration_s - margin_s:  # an edit list hides the others
            return ""
        self._tally.settle("failed", "broken", min(missing, self._broken_in_a_row))
        how_far = f"{self._reached_s:.1f} of {length.duration_s:.1f} s"
        sentence = f"{source.display}: can be read no further than {how_far}"
        if length.whole:
            raise OpenError(f"{sentence}; is it damaged? copy it again")
        return redact(f"{sentence}, where it is cut off; copy it again")

    def _progress(self) -> Progress:
        sight = None if self._judge is None else self._judge.verdict
        return Progress(self._tally.account(), self._newest_ns, self._clock.faults, sight)

    def _heartbeat(self) -> None:
        now_s = time.monotonic()
        if now_s - self._told_at_s >= _HEARTBEAT_S:
            self._told_at_s = now_s
            self._connection.send(self._progress())


def _sight_judge(job: GrabJob) -> SightJudge | None:
    """One picture of a folder says nothing of the next: only video is judged."""
    config = job.config
    if config.blind_after_s is None or job.source.kind is SourceKind.FOLDER:
        return None
    return SightJudge(config.blind_after_s, config.frozen_after_s)


class _Tally:
    """Counts settled frames; every frame once."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()

    def settle(self, fate: str, reason: str = "", frames: int = 1) -> None:
        """Book grabbed frames, if there are any."""
        if frames == 0:
            return
        self._counts["grabbed"] += frames
        if fate == "dropped":
            self._dropped[reason] += frames
        elif fate == "failed":
            self._failed[reason] += frames
        else:
            self._counts[fate] += frames

    def account(self) -> CaptureAccount:
        counts = self._counts
        return CaptureAccount(
            counts["grabbed"],
            counts["unsampled"],
            counts["skipped"],
            counts["delivered"],
            dict(self._dropped),
            dict(self._failed),
        )


class _Inbox:
    """Listens to the main process in a thread, so that a grab that hangs can still be ended."""

    def __init__(self, connection: Connection) -> None:
        self.stopping = False
        self._connection = connection
        self._given: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._kept: deque[int] = deque()
        threading.Thread(target=self._listen, name="grants", daemon=True).start()

    def take_slot(self, wait: bool) -> int | None:
        """Return a granted slot; None when there is none (or, waiting, when told to stop)."""
        if self.stopping:
            return None
        if self._kept:
            return self._kept.popleft()
        try:
            return self._given.get(block=wait)
        except queue.Empty:
            return None

    def give_back(self, slot: int) -> None:
        """Keep a slot that was not needed after all."""
        self._kept.append(slot)

    def _listen(self) -> None:
        try:
            while isinstance(message := self._connection.recv(), Grant):
                for slot in message.slots:
                    self._given.put(slot)
        except (EOFError, OSError):
            os._exit(0)  # the main process is gone
        self.stopping = True
        self._given.put(None)


def _send_stderr_nowhere() -> None:
    """Libraries print file names and URLs there; what matters goes through the pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
