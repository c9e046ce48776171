"""The one durable layer: a SQLite file with outbox, rule state and caption archive."""

from pipeline.store.backlog import Backlog, Work
from pipeline.store.housekeeping import Housekeeper
from pipeline.store.retention import Retention
from pipeline.store.store import REDIS, Event, OutboxEntry, Store, StoreError

__all__ = [
    "REDIS",
    "Backlog",
    "Event",
    "Housekeeper",
    "OutboxEntry",
    "Retention",
    "Store",
    "StoreError",
    "Work",
]
