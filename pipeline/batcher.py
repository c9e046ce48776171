"""Many cameras to one batch: fresh frames only, fair over cameras, and which windows are due."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.frame_clock import schedule
from pipeline.ledger import Ledger
from pipeline.messages import FrameRef, FrameStamp, SourceEnd

__all__ = ["Batch", "Batcher", "LaneRules", "WindowSchedule"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames to encode together; frames of one camera are in order.

    ``due[i]`` tells whether the window ending at ``refs[i]`` is to be captioned. No frame comes
    any more of the recordings in ``ended``.
    """

    refs: tuple[FrameRef, ...]
    due: tuple[bool, ...]
    ended: tuple[SourceEnd, ...] = ()


@dataclass(frozen=True, slots=True)
class LaneRules:
    """What the batcher must know of a camera.

    ``max_age_s`` is the age past which a live frame is dropped as stale, or None for a file,
    whose frames never grow stale.
    """

    captions_per_second: float
    max_age_s: float | None

    @property
    def live(self) -> bool:
        """Whether it is a live camera, not a file."""
        return self.max_age_s is not None


class WindowSchedule:
    """Decides which windows are due, on the source's own clock.

    Of a recording a window is due when its last frame's time passes a multiple of
    1 / captions_per_second since the first frame, so a file gives the same windows at any playing
    speed, and a lost frame delays a caption by one frame instead of shifting all that follow. Of a
    ``live`` source so many are due a second, whether its frames come evenly or in bunches.
    """

    def __init__(self, captions_per_second: float, live: bool = False) -> None:
        self.captions_per_second = captions_per_second
        self._live = live
        self._granted = schedule(captions_per_second, live)
        self._start_s = 0.0
        self._last_s: float | None = None

    def due(self, stamp: FrameStamp) -> bool:
        """Whether the window that ends with this frame is to be captioned; call once a frame."""
        time_s = stamp.time_s
        if (
            self._last_s is None or time_s < self._last_s
        ):  # first frame, or a clock that jumped back
            self._start_s = time_s
            self._granted = schedule(self.captions_per_second, self._live)
        self._last_s = time_s
        return self._granted.take(time_s - self._start_s)


class Batcher:
    """The stage between the cameras' lanes and the captioner.

    Args:
        lanes: Rules by camera; a mapping that may grow while running (hot reload).
        release: Called with a frame that is given up here, to free its slot.
        ledger: Books dropped frames and due windows.
        monotonic_ns: The monotonic clock, injected for tests.

    """

    name = "batcher"

    def __init__(
        self,
        lanes: Mapping[str, LaneRules],
        release: Callable[[FrameRef], None],
        ledger: Ledger,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._lanes = lanes
        self._release = release
        self._ledger = ledger
        self._monotonic_ns = monotonic_ns
        self.on_batch: Callable[[int], None] = lambda frames: None
        """Told how many frames each batch holds."""
        self.on_frame: tuple[Callable[[FrameRef], None], ...] = ()
        """Each is shown every fresh frame, which it must not keep."""
        self._schedules: dict[str, WindowSchedule] = {}

    def open(self) -> None:
        """Nothing to acquire."""

    def process(self, items: Sequence[FrameRef | SourceEnd]) -> Iterable[Batch]:
        """Make one batch of the frames that are still fresh."""
        ended = tuple(item for item in items if isinstance(item, SourceEnd))
        fresh = [ref for ref in items if isinstance(ref, FrameRef) and self._is_fresh(ref)]
        if not fresh and not ended:
            return
        # A round-robin take interleaves cameras; a stable sort by sequence keeps each in order.
        fresh.sort(key=lambda ref: ref.stamp.sequence)
        if fresh:
            self.on_batch(len(fresh))
        for ref in fresh:
            for show in self.on_frame:
                show(ref)
        yield Batch(tuple(fresh), tuple(self._due(ref.stamp) for ref in fresh), ended)
        for end in ended:
            self._schedules.pop(end.camera, None)

    def flush(self) -> Iterable[Batch]:
        """Nothing is held back."""
        return ()

    def close(self) -> None:
        """Nothing to release."""

    def _is_fresh(self, ref: FrameRef) -> bool:
        rules = self._lanes.get(ref.stamp.camera)
        if rules is None:
            return self._give_up(ref, "removed")
        if rules.max_age_s is not None:
            age_s = (self._monotonic_ns() - ref.stamp.captured_monotonic_ns) / 1e9
            if age_s > rules.max_age_s:
                return self._give_up(ref, "stale")
        return True

    def _give_up(self, ref: FrameRef, reason: str) -> bool:
        self._ledger.dropped(ref.stamp.camera, reason)
        self._release(ref)
        return False

    def _due(self, stamp: FrameStamp) -> bool:
        rules = self._lanes.get(stamp.camera)
        if rules is None:  # removed since it was looked at: the captioner gives its slot back
            self._schedules.pop(stamp.camera, None)
            return False
        rate = rules.captions_per_second
        schedule = self._schedules.get(stamp.camera)
        if schedule is None or schedule.captions_per_second != rate:  # new, or changed by a reload
            schedule = self._schedules[stamp.camera] = WindowSchedule(rate, rules.live)
        due = schedule.due(stamp)
        if due:
            self._ledger.window_due(stamp.camera)
        return due
