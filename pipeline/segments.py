"""The shared memory of all cameras: who has how much, and that the last reader frees it."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.camera_feed import CameraFeed, CameraSpec
from pipeline.channel import Overflow
from pipeline.config import CaptureConfig
from pipeline.slots import SharedMemoryFull

__all__ = ["Segments", "live_slots"]

_IN_FLIGHT_SLOTS = 3
# Slots that recordings share, and the least for each: one batch is in the captioner while the next
# fills, and the fewer frames in a batch, the more a caption costs.
_RECORDING_SLOTS = 48
_FEWEST_RECORDING_SLOTS = 16
_FEWEST_SLOTS = 4  # of a recording where shared memory is short


def live_slots(config: CaptureConfig) -> int:
    """How many pictures of a live camera are in shared memory at most."""
    return config.queue_frames + _IN_FLIGHT_SLOTS + 2


class Segments:
    """Which feed each segment belongs to, those of cameras that are gone but still read too.

    Other threads look up; only the capture thread (before it runs, its maker) changes anything.

    Args:
        square_pixels: Side of the encoder's square.
        recordings: How many recordings are read at once and share their slots.

    """

    def __init__(self, square_pixels: int, recordings: int) -> None:
        self._square_pixels = square_pixels
        self._recordings = recordings
        self._feeds: dict[str, CameraFeed] = {}  # replaced, never changed in place

    def new_feed(self, spec: CameraSpec, beside: Sequence[CameraFeed] = ()) -> CameraFeed:
        """Make a camera's feed; a live camera gets its memory now, a recording in its turn.

        ``beside`` are new feeds that have not been noted yet.

        Raises:
            SharedMemoryFull: There is no room for its pictures.

        """
        if spec.overflow is Overflow.WAIT:
            slots = max(_FEWEST_RECORDING_SLOTS, _RECORDING_SLOTS // self._recordings)
        else:
            slots = live_slots(spec.capture)
        feed = CameraFeed(spec, self._square_pixels, slots)
        if spec.source.live:
            self.allot(feed, beside)
        return feed

    def new_feeds(self, specs: Sequence[CameraSpec]) -> list[CameraFeed]:
        """Make the feeds of several cameras, or of none.

        Raises:
            SharedMemoryFull: There is no room for the pictures of all of them.

        """
        feeds: list[CameraFeed] = []
        try:
            for spec in specs:
                feeds.append(self.new_feed(spec, feeds))
        except SharedMemoryFull:
            for feed in feeds:
                if feed.allotted:
                    feed.slots.close()
                    feed.slots.unlink()
            raise
        return feeds

    def allot(self, feed: CameraFeed, beside: Sequence[CameraFeed] = ()) -> None:
        """Make a feed's slots.

        Raises:
            SharedMemoryFull: There is no room for them.

        """
        others = (*self._feeds.values(), *(other for other in beside if other.allotted))
        unwritten = sum(other.slots.unwritten_bytes for other in others)
        feed.allot(_FEWEST_SLOTS, unwritten)

    def note(self, feed: CameraFeed) -> None:
        """Let the feed be found by its segment."""
        if feed.allotted:
            self._feeds = {**self._feeds, feed.slots.layout.segment: feed}

    def feed_of(self, segment: str) -> CameraFeed | None:
        """Whose pictures lie there; None when they are all back and the memory is freed."""
        return self._feeds.get(segment)

    def holds(self, camera: str) -> bool:
        """Whether a camera's pictures are in memory, or frames of it still under way."""
        return any(feed.spec.name == camera for feed in self._feeds.values())

    def recordings_held(self) -> int:
        """Recordings in memory: those that ended stay until their last frame has been looked at."""
        return sum(1 for feed in self._feeds.values() if not feed.spec.source.live)

    def free_if_unused(self, feed: CameraFeed) -> None:
        """Free the memory of a feed that is over, unless frames of it are still read."""
        if feed.lends or not feed.allotted or self.feed_of(feed.slots.layout.segment) is None:
            return
        gone = feed.slots.layout.segment
        self._feeds = {segment: kept for segment, kept in self._feeds.items() if segment != gone}
        feed.slots.close()
        feed.slots.unlink()

    def close(self) -> None:
        """Free all: after this no frame can be read any more."""
        for feed in self._feeds.values():
            feed.slots.close()
            feed.slots.unlink()
        self._feeds = {}
