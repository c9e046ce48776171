"""The one durable layer: a SQLite file with outbox, rule state and caption archive."""

from pipeline.store.archive import Archive, Found, SearchQuery
from pipeline.store.backlog import Backlog, Work
from pipeline.store.housekeeping import Housekeeper
from pipeline.store.lock import exclusive
from pipeline.store.retention import Retention
from pipeline.store.store import REDIS, Event, OutboxEntry, Store, StoreError

__all__ = [
    "REDIS",
    "Archive",
    "Backlog",
    "Event",
    "Found",
    "Housekeeper",
    "OutboxEntry",
    "Retention",
    "SearchQuery",
    "Store",
    "StoreError",
    "Work",
    "exclusive",
]
