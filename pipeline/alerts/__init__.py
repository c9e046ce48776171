"""Alerts on their way out: CloudEvents, the Redis publisher, the embedded server, subscribers."""

from pipeline.alerts.camera_events import CameraEventDesk
from pipeline.alerts.codec import encode_alert, encode_camera_event, encode_review
from pipeline.alerts.publisher import Publisher
from pipeline.alerts.redis_sink import RedisSink
from pipeline.alerts.review import AlertRecord, Reviewer, ReviewError
from pipeline.alerts.review_follower import ReviewFollower
from pipeline.alerts.server import EmbeddedRedis
from pipeline.alerts.subscriber import Event, subscribe, subscribe_async

__all__ = [
    "AlertRecord",
    "CameraEventDesk",
    "EmbeddedRedis",
    "Event",
    "Publisher",
    "RedisSink",
    "ReviewError",
    "ReviewFollower",
    "Reviewer",
    "encode_alert",
    "encode_camera_event",
    "encode_review",
    "subscribe",
    "subscribe_async",
]
