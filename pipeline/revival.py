"""What follows when a grabber child ends: is its camera tried again, when, and what is told.

Functions on one feed, for the capture thread alone; the delays are :mod:`pipeline.restarts`'.
"""

from __future__ import annotations

import logging

from pipeline.camera_feed import CameraFeed, FeedState
from pipeline.grab_messages import Failed

__all__ = ["note_failure", "note_silence", "settle_end"]

log = logging.getLogger(__name__)


def note_failure(feed: CameraFeed, failure: Failed, now_s: float) -> None:
    """A child says why it ends."""
    feed.dying_reason = failure.sentence
    restarts = feed.restarts
    wait_s = restarts.after_refusal() if failure.refused else restarts.after_failure(now_s)
    feed.retry_at_s = now_s + wait_s


def note_silence(feed: CameraFeed, quiet_s: float, now_s: float) -> None:
    """A child brought nothing new for too long: it is killed."""
    if feed.spec.source.live:
        feed.dying_reason = f"{feed.spec.source.display}: no new frame for {quiet_s:.1f} s"
        feed.slow_opens += int(not feed.came_frame)
        feed.retry_at_s = now_s + feed.restarts.after_failure(now_s)
    else:
        feed.dying_reason = None  # counted against the budget, like a death
    feed.stirred_s = now_s
    feed.kill()


def settle_end(feed: CameraFeed, now_s: float) -> str:
    """A child is gone: set the camera's state, its error and when it is tried again.

    Returns why it ended, in a sentence free of secrets.
    """
    live = feed.spec.source.live
    if feed.dying_reason is None:
        feed.retry_at_s = now_s + feed.restarts.after_crash(now_s)
        feed.dying_reason = f"{feed.spec.source.display}: the grabber process died"
    elif not live:
        feed.retry_at_s = None  # a file that cannot be read will not mend by itself
    feed.error = feed.dying_reason
    spent = feed.restarts.exhausted
    feed.state = FeedState.FAILED if spent else FeedState.RETRYING
    if not live and (spent or feed.retry_at_s is None):
        feed.state, feed.retry_at_s = FeedState.FAILED, None
        return feed.dying_reason  # the end of the run tells it
    if spent:
        feed.error = f"{feed.dying_reason} too often; it is tried again every 30 s"
    if feed.error != feed.warned:  # a camera that stays away is told once
        feed.warned = feed.error
        log.warning("camera %s: %s", feed.spec.name, feed.error)
    return feed.dying_reason
