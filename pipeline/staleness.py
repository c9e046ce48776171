"""How long a camera may bring nothing new: liveness is judged by new frames, never by is_alive."""

from __future__ import annotations

from pipeline.camera_feed import CameraFeed, FeedState
from pipeline.channel import Overflow

__all__ = ["is_stale", "patience_s", "stale_at_s", "waits_for_us"]

_OPEN_GRACE_S = 4.0  # beyond the open time-out: start of the child, and asking why it failed
# A child normally keeps its own time-outs. One that does not is starved of processor time, and so
# are its neighbours: were they all killed at the same age for ever, none would ever come up.
_MOST_DOUBLINGS = 4
_FILE_PATIENCE_S = 30.0
_STALE_MARGIN_S = 0.2  # so that the report itself is out by stale_after_s


def patience_s(feed: CameraFeed) -> float:
    """Seconds a child may bring nothing new before it is replaced."""
    capture = feed.spec.capture
    if not feed.spec.source.live:
        return max(_FILE_PATIENCE_S, capture.stale_after_s)
    if feed.state is FeedState.OPENING or not feed.came_frame:
        least_s = max(capture.open_timeout_s, capture.read_timeout_s) + _OPEN_GRACE_S
        return least_s * 2.0 ** min(feed.slow_opens, _MOST_DOUBLINGS)
    return capture.stale_after_s - _STALE_MARGIN_S


def is_stale(feed: CameraFeed, now_s: float) -> bool:
    """Whether a live camera that has worked brings nothing new any more."""
    return now_s >= stale_at_s(feed)


def stale_at_s(feed: CameraFeed) -> float:
    """When a camera that brings nothing new until then is stale; never one that has not worked."""
    if not feed.spec.source.live or feed.last_frame_at is None:
        return float("inf")
    return feed.newest_s + feed.spec.capture.stale_after_s - _STALE_MARGIN_S


def waits_for_us(feed: CameraFeed) -> bool:
    """Whether a child stands still because the pipeline holds all its slots, as told to."""
    return feed.spec.overflow is Overflow.WAIT and feed.waits_for_slot()
