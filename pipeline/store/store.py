"""SQLite in WAL mode: events are durable here before anything calls them done.

One writer (this process; guarded by a lock), many readers. A transaction that holds events is
written with ``synchronous=FULL``, so it survives a power cut; one with captions alone with
``NORMAL``, which survives our own death and costs no fsync.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pipeline.messages import Caption

__all__ = ["OutboxEntry", "Store", "StoreError"]

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    event TEXT NOT NULL,
    snapshot BLOB,
    published_at TEXT
);
CREATE INDEX outbox_pending ON outbox (seq) WHERE published_at IS NULL;
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE caption (
    id INTEGER PRIMARY KEY,
    camera TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    time TEXT NOT NULL,
    media_time_s REAL,
    text TEXT NOT NULL,
    log_probability REAL NOT NULL,
    UNIQUE (camera, time, sequence)
);
CREATE INDEX caption_time ON caption (time);
CREATE VIRTUAL TABLE caption_text USING fts5 (text, content='caption', content_rowid='id',
    tokenize='porter unicode61');
CREATE TRIGGER caption_added AFTER INSERT ON caption BEGIN
    INSERT INTO caption_text (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER caption_removed AFTER DELETE ON caption BEGIN
    INSERT INTO caption_text (caption_text, rowid, text) VALUES ('delete', old.id, old.text);
END;
"""


class StoreError(Exception):
    """The store cannot be opened or written; one sentence with what to do."""


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """An event that waits to be published; ``event`` is its JSON text."""

    seq: int
    id: str
    event: str
    snapshot: bytes | None


class Store:
    """The SQLite file.

    Raises:
        StoreError: It cannot be opened, or a newer version of the program has written it.

    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False, timeout=5.0
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._migrate()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"store {self.path}: cannot be opened: {error}") from None

    def record(
        self,
        events: Sequence[tuple[Mapping[str, Any], bytes | None]] = (),
        state: Mapping[str, Any] | None = None,
        captions: Iterable[Caption] = (),
    ) -> int:
        """Write events with their snapshots, rule state and captions: all or nothing.

        Each event gets its number as ``data.seq``. An id that still waits is left as it is, so
        a replay after a kill adds nothing. One that was published waits again, as it now is and
        under its old number: the same recording may be run into another Redis, and one that
        knows the id ignores it.

        Returns:
            How many events were new.

        Raises:
            StoreError: The disk is full or the file cannot be written; nothing was.

        """
        with self._lock:
            try:
                level = "FULL" if events else "NORMAL"
                self._connection.execute(f"PRAGMA synchronous={level}")
                self._connection.execute("BEGIN IMMEDIATE")
                new = sum(self._insert_event(event, snapshot) for event, snapshot in events)
                for name, value in (state or {}).items():
                    self._connection.execute(
                        "INSERT OR REPLACE INTO state VALUES (?, ?)", (name, json.dumps(value))
                    )
                self._connection.executemany(
                    "INSERT OR IGNORE INTO caption"
                    " (camera, sequence, time, media_time_s, text, log_probability)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    [_caption_row(caption) for caption in captions],
                )
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise StoreError(f"store {self.path}: cannot be written: {error}") from error
            except BaseException:  # a value JSON cannot hold: no transaction may stay open
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            return new

    def pending(self, limit: int = 100) -> list[OutboxEntry]:
        """Oldest events not yet published, in order."""
        with self._lock, self._explained("read"):
            rows = self._connection.execute(
                "SELECT seq, id, event, snapshot FROM outbox"
                " WHERE published_at IS NULL ORDER BY seq LIMIT ?",
                (limit,),
            ).fetchall()
        return [OutboxEntry(*row) for row in rows]

    def depth(self) -> int:
        """How many events wait to be published."""
        with self._lock, self._explained("read"):
            row = self._connection.execute(
                "SELECT count(*) FROM outbox WHERE published_at IS NULL"
            ).fetchone()
        return int(row[0])

    def mark_published(self, seq: int) -> None:
        """Note that an event has reached Redis; its snapshot is not needed any more.

        A kill before this makes the publisher send the same id again, which Redis then ignores.
        """
        now = datetime.now(timezone.utc).isoformat()
        with self._lock, self._explained("written"):
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(
                "UPDATE outbox SET published_at = ?, snapshot = NULL WHERE seq = ?", (now, seq)
            )

    def state(self, name: str) -> Any | None:
        """Return what :meth:`record` stored last under this name, or None."""
        with self._lock, self._explained("read"):
            row = self._connection.execute(
                "SELECT value FROM state WHERE name = ?", (name,)
            ).fetchone()
        return None if row is None else json.loads(row[0])

    def close(self) -> None:
        """Close the file. Idempotent."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        """SQLite's errors as ours: whoever calls (the publisher) waits and tries again."""
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"store {self.path}: cannot be {verb}: {error}") from error

    def _insert_event(self, event: Mapping[str, Any], snapshot: bytes | None) -> bool:
        cursor = self._connection.execute(
            "INSERT OR IGNORE INTO outbox (id, event) VALUES (?, '')", (event["id"],)
        )
        if cursor.rowcount == 1:
            self._write_event(cursor.lastrowid, event, snapshot)
            return True
        published = self._connection.execute(
            "SELECT seq FROM outbox WHERE id = ? AND published_at IS NOT NULL", (event["id"],)
        ).fetchone()
        if published is not None:
            self._write_event(published[0], event, snapshot)
        return False

    def _write_event(
        self, seq: int | None, event: Mapping[str, Any], snapshot: bytes | None
    ) -> None:
        numbered = {**event, "data": {**event["data"], "seq": seq}}
        self._connection.execute(
            "UPDATE outbox SET event = ?, snapshot = ?, published_at = NULL WHERE seq = ?",
            (json.dumps(numbered, ensure_ascii=False), snapshot, seq),
        )

    def _migrate(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version == _SCHEMA_VERSION:
            return
        if version > _SCHEMA_VERSION:
            raise StoreError(f"store {self.path}: written by a newer version; upgrade watchword")
        self._connection.executescript(
            f"BEGIN; {_SCHEMA} PRAGMA user_version={_SCHEMA_VERSION}; COMMIT;"
        )


def _caption_row(caption: Caption) -> tuple[object, ...]:
    stamp = caption.stamp
    return (
        stamp.camera,
        stamp.sequence,
        stamp.captured_at.isoformat(),
        stamp.position_s,
        caption.text,
        caption.log_probability,
    )
