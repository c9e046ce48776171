"""Tells that a camera went, came back, sees nothing, or sees again: each change once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone

from pipeline.camera_feed import CameraFeed
from pipeline.messages import CameraEvent, CameraState
from pipeline.sight import Sight

__all__ = ["CameraNews"]


class CameraNews:
    """Turns what happens to feeds into camera events; for the capture thread alone.

    What was told last is kept in the feed, so it outlives the grabber child: a camera that was
    blind before its grabber died is not told to be sighted because a new one has no opinion yet.
    """

    def __init__(self, on_event: Callable[[CameraEvent], None]) -> None:
        self._on_event = on_event

    def offline(self, feed: CameraFeed, reason: str) -> None:
        """A live camera brings no new frames."""
        if feed.offline_since is not None or not feed.spec.source.live:
            return
        feed.offline_since = datetime.now(timezone.utc)
        feed.error = feed.error or f"{feed.spec.source.display}: {reason}"
        self._emit(feed, CameraState.OFFLINE, reason, feed.offline_since)

    def online(self, feed: CameraFeed) -> None:
        """New frames came."""
        feed.error = None
        if feed.offline_since is not None:
            feed.offline_since = None
            self._emit(feed, CameraState.ONLINE, "new frames", datetime.now(timezone.utc))

    def sight(self, feed: CameraFeed, sight: Sight | None) -> None:
        """The grabber's verdict on the pictures; None while it has none."""
        if sight is None or sight.blind is feed.blind:
            return
        feed.blind = sight.blind
        if sight.blind is None:
            self._emit(feed, CameraState.SIGHTED, "the picture is clear", sight.since)
        else:
            self._emit(feed, CameraState.BLIND, sight.blind.sentence, sight.since)

    def _emit(self, feed: CameraFeed, state: CameraState, reason: str, since: datetime) -> None:
        name = feed.spec.name
        self._on_event(CameraEvent(name, state, reason, since, feed.last_frame_at, feed.reconnects))
