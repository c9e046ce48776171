"""Full-text search over the archived captions: read-only, beside a run that goes on writing."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pipeline.errors import WrongUse
from pipeline.messages import Caption, FrameStamp
from pipeline.store.evidence import with_evidence
from pipeline.store.store import StoreError

__all__ = ["Archive", "Found", "SearchQuery", "fts_query"]

_RANKED_UP_TO = 2_000
"""With more matches than this, all of them say much the same: the newest come first."""
_BOUNDED_UP_TO = 100_000
"""A stretch of time with at most so many captions is first turned into a range of row numbers."""
_TERM = re.compile(r'(?P<minus>-?)(?:"(?P<phrase>[^"]*)"|(?P<word>[^\s"]+))')


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """What to look for.

    ``text`` holds words (all must occur, in any form: ``fight`` finds fighting), ``"a phrase"``,
    a prefix (``motor*``), ``OR`` between two alternatives, and ``-word`` for what must not occur.
    ``camera`` is a name or a glob; ``since`` and ``until`` are aware times of the frames.
    """

    text: str
    camera: str = "*"
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 20


@dataclass(frozen=True, slots=True)
class Found:
    """A caption that was found; in ``snippet`` what matched stands between ``[`` and ``]``.

    ``recording`` is the file it was seen in, where it came from one, and ``media_time_s`` when.
    """

    camera: str
    time: datetime
    media_time_s: float | None
    text: str
    snippet: str
    recording: Path | None


class Archive:
    """The captions of one store file.

    Raises:
        StoreError: There is no such file, or it is no store.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise StoreError(f"{path}: no store there; give the --store of a run")
        with self._explained():
            self._connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
            self._connection.execute("SELECT 1 FROM caption LIMIT 1")

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._connection.close()

    def cameras(self) -> list[str]:
        """Names of all cameras with captions."""
        # A walk from name to name through the index: a DISTINCT would read every row.
        with self._explained():
            rows = self._connection.execute(
                "WITH RECURSIVE name (camera) AS (SELECT min(camera) FROM caption UNION ALL"
                " SELECT (SELECT min(camera) FROM caption WHERE camera > name.camera) FROM name"
                " WHERE name.camera IS NOT NULL)"
                " SELECT camera FROM name WHERE camera IS NOT NULL"
            ).fetchall()
        return [str(row[0]) for row in rows]

    def search(self, query: SearchQuery) -> list[Found]:
        """Find captions, best first; where thousands match, newest first.

        Raises:
            WrongUse: The query's text says nothing to look for.

        """
        cameras = self._named(query.camera)
        if not cameras:
            return []
        condition, values = _filters(query, cameras)
        bounds = self._row_bounds(query)
        match = fts_query(query.text)
        with self._explained():
            few = len(
                self._connection.execute(
                    "SELECT 1 FROM caption_text WHERE caption_text MATCH ? LIMIT ?",
                    (match, _RANKED_UP_TO + 1),
                ).fetchall()
            )
            order = "rank, " if few <= _RANKED_UP_TO else ""
            rows = self._connection.execute(
                # FTS5 hands rows out in its own order only when it drives the join.
                "SELECT caption.camera, time, media_time_s, caption.text,"
                " snippet(caption_text, 0, '[', ']', '…', 24)"
                " FROM caption_text CROSS JOIN caption ON caption.id = caption_text.rowid"
                " WHERE caption_text MATCH ? AND caption_text.rowid BETWEEN ? AND ?"
                f" {condition}"
                f" ORDER BY {order}caption_text.rowid DESC LIMIT ?",
                (match, *bounds, *values, query.limit),
            ).fetchall()
        files = {camera: self.recording(camera) for camera in {row[0] for row in rows}}
        return [_found(row, files[row[0]]) for row in rows]

    def _row_bounds(self, query: SearchQuery) -> tuple[int, int]:
        """Row numbers between which everything of a short stretch of time lies.

        Without them a common word is looked up from the newest caption backwards, row by row.
        """
        every = (0, 2**62)
        if query.since is None and query.until is None:
            return every
        since, until = (
            "0" if query.since is None else _stored(query.since),
            "9" if query.until is None else _stored(query.until),
        )
        with self._explained():
            count, first, last = self._connection.execute(
                "SELECT count(*), min(id), max(id) FROM"
                " (SELECT id FROM caption WHERE time BETWEEN ? AND ? LIMIT ?)",
                (since, until, _BOUNDED_UP_TO + 1),
            ).fetchone()
        return every if count > _BOUNDED_UP_TO else (first or 0, last or 0)

    def recording(self, camera: str) -> Path | None:
        """Return the file a camera's captions come from, if they come from one."""
        return self._path(f"recording:{camera}")

    def report(self, camera: str) -> Path | None:
        """Return the HTML report that last told of a camera, if one was written."""
        return self._path(f"report:{camera}")

    def time_zone(self, camera: str = "*") -> str | None:
        """Name the time zone in which all cameras of that name or glob were run.

        None where that is this machine's, or not one for all.
        """
        zones = {self._state(f"zone:{name}") for name in self._named(camera)}
        return zones.pop() if len(zones) == 1 else None

    def captions(
        self, camera: str = "*", since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[Caption]:
        """Yield captions with their evidence, in the order of their times.

        What a version without evidence has archived comes without. Args are as of
        :class:`SearchQuery`.
        """
        condition, values = _filters(SearchQuery("", camera, since, until), self._named(camera))
        with self._explained():
            kept = self._connection.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'caption_evidence'"
            ).fetchone()
            packed = "(SELECT packed FROM caption_evidence AS e WHERE e.id = caption.id)"
            rows = self._connection.execute(
                "SELECT camera, sequence, time, media_time_s, text, log_probability,"
                f" {packed if kept else 'NULL'}"
                f" FROM caption WHERE true {condition} ORDER BY time, id",
                values,
            )
            for *row, evidence in rows:
                said = _caption(*row)
                yield said if evidence is None else with_evidence(said, evidence)

    def _named(self, camera: str) -> list[str]:
        return [name for name in self.cameras() if fnmatchcase(name, camera)]

    def _path(self, name: str) -> Path | None:
        found = self._state(name)
        return None if found is None else Path(found)

    def _state(self, name: str) -> str | None:
        with self._explained():
            row = self._connection.execute(
                "SELECT value FROM state WHERE name = ?", (name,)
            ).fetchone()
        found: str | None = None if row is None else json.loads(row[0])
        return found

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"store {self.path}: cannot be searched: {error}") from error


def fts_query(text: str) -> str:
    """Turn a query as people write it into FTS5's own language; nothing of it is trusted.

    Raises:
        WrongUse: There is no word to look for.

    """
    wanted: list[str] = []
    unwanted: list[str] = []
    alternative = False
    for term in _TERM.finditer(text):
        if term["word"] == "OR" and wanted:
            alternative = True
            continue
        quoted = _quoted(term["phrase"], term["word"])
        if quoted is None:
            continue
        if term["minus"]:
            unwanted.append(quoted)
        elif alternative:
            wanted[-1] = f"({wanted[-1]} OR {quoted})"
        else:
            wanted.append(quoted)
        alternative = False
    if not wanted:
        raise WrongUse(f'{text!r}: no word to look for; try fire, "two men" or motor*')
    positive = " AND ".join(wanted)
    return f"({positive}) NOT ({' OR '.join(unwanted)})" if unwanted else positive


def _quoted(phrase: str | None, word: str | None) -> str | None:
    """A string of FTS5, with its star outside for a prefix; None where no letter is in it."""
    text = phrase if phrase is not None else (word or "")
    if not any(character.isalnum() for character in text):
        return None
    prefix = phrase is None and text.endswith("*")
    inner = text.rstrip("*").replace('"', "").replace("\0", " ")  # NUL would end the string
    return f'"{inner}"*' if prefix else f'"{inner}"'


def _found(row: tuple[Any, ...], recording: Path | None) -> Found:
    camera, time, media_time_s, text, snippet = row
    of_recording = None if media_time_s is None else recording
    return Found(camera, datetime.fromisoformat(time), media_time_s, text, snippet, of_recording)


def _caption(
    camera: str, sequence: int, time: str, media_s: float | None, text: str, log_probability: float
) -> Caption:
    moment = datetime.fromisoformat(time)
    stamp = FrameStamp(camera, sequence, moment, round(moment.timestamp() * 1e9), media_s)
    return Caption(stamp, text, log_probability)


def _filters(query: SearchQuery, cameras: list[str]) -> tuple[str, list[str]]:
    conditions, values = [], []
    if query.camera != "*":
        conditions.append(f"AND camera IN ({', '.join('?' * len(cameras))})")
        values += cameras
    for bound, sign in ((query.since, ">="), (query.until, "<=")):
        if bound is not None:
            conditions.append(f"AND time {sign} ?")
            values.append(_stored(bound))
    return " ".join(conditions), values


def _stored(moment: datetime) -> str:
    """A time as the store writes it: UTC, so that text sorts as time does."""
    return moment.astimezone(timezone.utc).isoformat()
