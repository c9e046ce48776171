"""The one durable layer: a SQLite file with outbox, rule state and caption archive."""

from pipeline.store.store import OutboxEntry, Store, StoreError

__all__ = ["OutboxEntry", "Store", "StoreError"]
