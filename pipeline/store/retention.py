"""What is kept for how long: published events by age, archived captions by age and size."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime, timedelta

__all__ = ["Retention", "prune"]

_MIB = 1 << 20
_ROWS = 500
"""At most so many rows of each kind go at once."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Limits of the store. An event that still waits for a sink is never deleted."""

    event_max_age_days: float = 30.0
    caption_max_age_days: float = 30.0
    """Days since a caption was archived, whatever the age of the recording."""
    caption_max_mib: float = 1024.0
    """Size of the file's used pages above which the oldest captions go."""


def prune(connection: sqlite3.Connection, limits: Retention, now: datetime) -> int:
    """Delete the oldest rows past the limits, at most a few hundred; return how many went.

    ``now`` is aware UTC. Runs inside the caller's transaction.
    """
    events = connection.execute(
        "DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE published_at < ?"
        " ORDER BY published_at LIMIT ?)",
        ((now - timedelta(days=limits.event_max_age_days)).isoformat(), _ROWS),
    ).rowcount
    captions = connection.execute(
        "DELETE FROM caption WHERE id IN (SELECT id FROM caption WHERE archived_at < ?"
        " ORDER BY archived_at LIMIT ?)",
        ((now - timedelta(days=limits.caption_max_age_days)).isoformat(), _ROWS),
    ).rowcount
    if _used_bytes(connection) > limits.caption_max_mib * _MIB:
        captions += connection.execute(
            "DELETE FROM caption WHERE id IN (SELECT id FROM caption ORDER BY id LIMIT ?)",
            (_ROWS,),
        ).rowcount
    return int(events + captions)


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
