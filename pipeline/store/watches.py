"""A recording that is watched again: its older captions go as far as the new watching has come.

So the captions of a recording are those of the newest run, at other times though they may be, and
one that is stopped early takes nothing that it has not looked at. A recording is a file, known by
its path, size and time of change: what another file under the same camera's name has said stays,
and so does what an older version of the program has archived, which noted no file.

All calls are made inside the caller's transaction.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Watch", "begin", "drop_replaced", "drop_seen", "end"]

_ROWS = 500
"""At most so many captions go at once."""


@dataclass(frozen=True, slots=True)
class Watch:
    """One watching of a recording, and those before it whose captions may still be there."""

    id: int
    older: tuple[int, ...]


def begin(connection: sqlite3.Connection, camera: str) -> Watch | None:
    """Note that a camera's recording is watched from now on; None where its file is not known."""
    recording = _recording(connection, camera)
    if recording is None:
        return None
    older = connection.execute(
        "SELECT id FROM watch WHERE camera = ? AND recording = ?", (camera, recording)
    ).fetchall()
    cursor = connection.execute(
        "INSERT INTO watch (camera, recording) VALUES (?, ?)", (camera, recording)
    )
    return Watch(int(cursor.lastrowid or 0), tuple(row[0] for row in older))


def drop_seen(connection: sqlite3.Connection, watch: Watch, position_s: float) -> None:
    """Delete older captions of what has been watched anew, up to this media time."""
    for older in watch.older:
        connection.execute(
            "DELETE FROM caption WHERE id IN"
            " (SELECT id FROM caption WHERE watch = ? AND media_time_s <= ? LIMIT ?)",
            (older, position_s, _ROWS),
        )


def end(connection: sqlite3.Connection, watch: Watch) -> None:
    """Note that a recording has been watched to its end: all older captions may go."""
    connection.executemany(
        "UPDATE watch SET replaced = 1 WHERE id = ?", [(older,) for older in watch.older]
    )
    drop_replaced(connection)


def drop_replaced(connection: sqlite3.Connection) -> int:
    """Delete some captions of watchings that a whole newer one has replaced; return how many."""
    gone = connection.execute(
        "DELETE FROM caption WHERE id IN (SELECT caption.id FROM watch JOIN caption"
        " ON caption.watch = watch.id WHERE watch.replaced LIMIT ?)",
        (_ROWS,),
    ).rowcount
    connection.execute(
        "DELETE FROM watch WHERE replaced AND NOT EXISTS"
        " (SELECT 1 FROM caption WHERE caption.watch = watch.id)"
    )
    return gone


def _recording(connection: sqlite3.Connection, camera: str) -> str | None:
    """Name the file behind a camera as it is now; None where there is none."""
    row = connection.execute(
        "SELECT value FROM state WHERE name = ?", (f"recording:{camera}",)
    ).fetchone()
    path: str | None = None if row is None else json.loads(row[0])
    if path is None:
        return None
    try:
        stat = Path(path).stat()
    except OSError:
        return None
    return json.dumps([path, stat.st_size, stat.st_mtime_ns])
