"""SQLite in WAL mode: events are durable here before anything calls them done.

One writer (this process; guarded by a lock), many readers. A transaction that holds events is
written with ``synchronous=FULL``, so it survives a power cut; one with captions alone with
``NORMAL``, which survives our own death and costs no fsync.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pipeline.messages import Caption
from pipeline.store.evidence import packed_evidence
from pipeline.store.reserve import Reserve
from pipeline.store.retention import Retention, prune
from pipeline.store.schema import migrate

__all__ = ["REDIS", "Event", "OutboxEntry", "Store", "StoreError"]

log = logging.getLogger(__name__)

REDIS = "redis"
"""The sink that every store has; others are webhooks and MQTT brokers."""

Event = tuple[Mapping[str, Any], bytes | None]
"""A CloudEvent without its ``data.seq``, and its snapshot (JPEG) if it has one."""


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)


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

    Args:
        path: Where it lies; its directory is made.
        sinks: To whom each event recorded from now on has to get.
        reserve_mib: Disk space kept ahead beside it, so that a full disk loses no alert.
        republish: Whether an event recorded again waits again though it was published before.
        clock: Wall clock (aware UTC) for ages alone; injected in tests.

    Raises:
        StoreError: It cannot be opened, or a newer version of the program has written it.

    """

    def __init__(
        self,
        path: str | Path,
        *,
        sinks: Sequence[str] = (REDIS,),
        reserve_mib: int = 0,
        republish: bool = True,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        self.path = Path(path)
        self._clock = clock
        self._republish = republish
        self.sinks = tuple(sinks)
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False, timeout=5.0
            )
            self._connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # for a new file only
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA journal_size_limit=16777216")
            known = migrate(self._connection)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"store {self.path}: cannot be opened: {error}") from None
        if not known:
            raise StoreError(f"store {self.path}: written by a newer version; upgrade watchword")
        self._reserve = Reserve(self.path.with_name(f"{self.path.name}.reserve"), reserve_mib)
        if not self._reserve.take():
            log.warning(
                "store %s: no %d MiB could be set aside for alerts; free some disk space, until "
                "then no caption is archived",
                self.path,
                reserve_mib,
            )

    @property
    def short_of_space(self) -> bool:
        """Whether the disk is, or has lately been, too full for the reserve: nothing is archived.

        Alerts are still written, into the space that was set aside for them.
        """
        return not self._reserve.held

    def record(
        self,
        events: Sequence[Event] = (),
        state: Mapping[str, Any] | None = None,
        captions: Iterable[Caption] = (),
    ) -> tuple[int, ...]:
        """Write events with their snapshots, rule state and captions: all or nothing.

        Each event gets its number as ``data.seq``. An id that still waits is left as it is, so
        a replay after a kill adds nothing. One that was published waits again, as it now is and
        under its old number: the same recording may be run into another Redis, and one that
        knows the id ignores it (unless the store was opened not to ``republish``). A caption of the
        same frame is replaced: a recording may be watched again with another model. On a full disk
        the reserve is given up and captions are left out.

        Returns:
            The events' numbers, in their order.

        Raises:
            StoreError: The disk is full or the file cannot be written; nothing was.

        """
        with self._lock:
            archived = () if self.short_of_space else captions
            try:
                return self._transact(events, state, archived)
            except StoreError:
                if not events or not self._reserve.give_up():
                    raise
                log.error(  # noqa: TRY400 - the error is told by what comes next
                    "store %s: the disk is full; alerts go into the space set aside for them, "
                    "captions are not archived. Free some disk space",
                    self.path,
                )
                return self._transact(events, state, ())

    def pending(self, sink: str = REDIS, limit: int = 100) -> list[OutboxEntry]:
        """Oldest events not yet taken by a sink, in order."""
        with self._lock, self._explained("read"):
            rows = self._connection.execute(
                "SELECT seq, id, event, snapshot FROM waiting JOIN outbox USING (seq)"
                " WHERE sink = ? ORDER BY seq LIMIT ?",
                (sink, limit),
            ).fetchall()
        return [OutboxEntry(*row) for row in rows]

    def depth(self, sink: str = REDIS) -> int:
        """How many events wait for a sink."""
        with self._lock, self._explained("read"):
            row = self._connection.execute(
                "SELECT count(*) FROM waiting WHERE sink = ?", (sink,)
            ).fetchone()
        return int(row[0])

    def mark_published(self, seq: int, sink: str = REDIS) -> None:
        """Note that a sink has an event; after the last sink its snapshot is not needed any more.

        A kill before this makes the publisher send the same id again, which Redis then ignores.
        """
        now = self._clock().isoformat()
        with self._lock, self._explained("written"), self._transaction("NORMAL"):
            self._connection.execute("DELETE FROM waiting WHERE sink = ? AND seq = ?", (sink, seq))
            self._connection.execute(
                "UPDATE outbox SET published_at = ?, snapshot = NULL WHERE seq = ?"
                " AND NOT EXISTS (SELECT 1 FROM waiting WHERE waiting.seq = outbox.seq)",
                (now, seq),
            )

    def drop_other_sinks(self) -> dict[str, int]:
        """Forget what waits for sinks that are configured no more; return how much, by sink."""
        with self._lock, self._explained("written"), self._transaction("FULL"):
            waiting = self._connection.execute(
                "SELECT sink, count(*) FROM waiting GROUP BY sink"
            ).fetchall()
            gone = {sink: count for sink, count in waiting if sink not in self.sinks}
            self._connection.executemany(
                "DELETE FROM waiting WHERE sink = ?", [(sink,) for sink in gone]
            )
            self._connection.execute(
                "UPDATE outbox SET published_at = ?, snapshot = NULL WHERE published_at IS NULL"
                " AND NOT EXISTS (SELECT 1 FROM waiting WHERE waiting.seq = outbox.seq)",
                (self._clock().isoformat(),),
            )
        return gone

    def state(self, name: str) -> Any | None:
        """Return what :meth:`record` stored last under this name, or None."""
        with self._lock, self._explained("read"):
            row = self._connection.execute(
                "SELECT value FROM state WHERE name = ?", (name,)
            ).fetchone()
        return None if row is None else json.loads(row[0])

    def states(self, prefix: str) -> dict[str, Any]:
        """Return every state whose name begins so, by the rest of its name."""
        with self._lock, self._explained("read"):
            rows = self._connection.execute(
                "SELECT substr(name, ?), value FROM state WHERE substr(name, 1, ?) = ?",
                (len(prefix) + 1, len(prefix), prefix),
            ).fetchall()
        return {name: json.loads(value) for name, value in rows}

    def prune(self, limits: Retention) -> int:
        """Delete some of what is past the limits, and set space aside again where there is room.

        One call deletes a bounded number of rows, so that whoever records waits little.

        Returns:
            How many rows went; as long as it is not 0 there may be more.

        Raises:
            StoreError: The file cannot be written.

        """
        with self._lock, self._explained("written"):
            with self._transaction("NORMAL"):
                gone = prune(self._connection, limits, self._clock())
            if gone:
                self._connection.execute("PRAGMA incremental_vacuum(1000)").fetchall()
        if self.short_of_space and self._reserve.take():
            log.warning("store %s: there is disk space again; captions are archived", self.path)
        return gone

    def close(self) -> None:
        """Close the file. Idempotent."""
        with self._lock:
            self._connection.close()

    def _transact(
        self,
        events: Sequence[Event],
        state: Mapping[str, Any] | None,
        captions: Iterable[Caption],
    ) -> tuple[int, ...]:
        with self._explained("written"), self._transaction("FULL" if events else "NORMAL"):
            numbers = tuple(self._insert_event(event, snapshot) for event, snapshot in events)
            for name, value in (state or {}).items():
                self._connection.execute(
                    "INSERT OR REPLACE INTO state VALUES (?, ?)", (name, json.dumps(value))
                )
            self._archive(captions)
        return numbers

    def _archive(self, captions: Iterable[Caption]) -> None:
        """Keep captions; one that is there already becomes what this run says."""
        archived_at = self._clock().isoformat()
        for caption in captions:
            row = _caption_row(caption)
            self._connection.execute(
                "INSERT INTO caption"
                " (camera, sequence, time, media_time_s, text, log_probability, archived_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (camera, time, sequence) DO UPDATE SET"
                " text = excluded.text, log_probability = excluded.log_probability,"
                " archived_at = excluded.archived_at",
                (*row, archived_at),
            )
            camera, sequence, time, *_ = row
            self._connection.execute(
                "INSERT OR REPLACE INTO caption_evidence SELECT id, ? FROM caption"
                " WHERE camera = ? AND time = ? AND sequence = ?",
                (packed_evidence(caption), camera, time, sequence),
            )

    @contextlib.contextmanager
    def _transaction(self, synchronous: str) -> Iterator[None]:
        """One write transaction; whatever is raised inside, none stays open."""
        self._connection.execute(f"PRAGMA synchronous={synchronous}")
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:  # a full disk, or a value JSON cannot hold
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        """SQLite's errors as ours: whoever calls (the publisher) waits and tries again."""
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"store {self.path}: cannot be {verb}: {error}") from error

    def _insert_event(self, event: Mapping[str, Any], snapshot: bytes | None) -> int:
        cursor = self._connection.execute(
            "INSERT OR IGNORE INTO outbox (id, event) VALUES (?, '')", (event["id"],)
        )
        if cursor.rowcount == 1:
            seq = int(cursor.lastrowid or 0)
            self._write_event(seq, event, snapshot)
            return seq
        seq, published_at = self._connection.execute(
            "SELECT seq, published_at FROM outbox WHERE id = ?", (event["id"],)
        ).fetchone()
        if published_at is not None and self._republish:
            self._write_event(seq, event, snapshot)
        return int(seq)

    def _write_event(self, seq: int, event: Mapping[str, Any], snapshot: bytes | None) -> None:
        numbered = {**event, "data": {**event["data"], "seq": seq}}
        self._connection.execute(
            "UPDATE outbox SET event = ?, snapshot = ?, published_at = NULL WHERE seq = ?",
            (json.dumps(numbered, ensure_ascii=False), snapshot, seq),
        )
        self._connection.executemany(
            "INSERT OR IGNORE INTO waiting (sink, seq) VALUES (?, ?)",
            [(sink, seq) for sink in self.sinks],
        )


def _caption_row(caption: Caption) -> tuple[object, ...]:
    stamp = caption.stamp
    return (
        stamp.camera,
        stamp.sequence,
        stamp.captured_at.astimezone(timezone.utc).isoformat(),  # so that text sorts as time
        stamp.position_s,
        caption.text,
        caption.log_probability,
    )
