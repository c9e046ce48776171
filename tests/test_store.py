"""The SQLite store: all or nothing, in order, and still there after reopening."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from pipeline.messages import Caption, FrameStamp
from pipeline.store import Store, StoreError, exclusive


def _event(name: str, **data: Any) -> dict[str, Any]:
    return {"id": name, "data": data}


def _caption(text: str) -> Caption:
    stamp = FrameStamp("door", 3, datetime(2026, 1, 2, tzinfo=timezone.utc), 0, 1.5)
    return Caption(stamp, text, -1.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store(path)
    yield opened
    opened.close()


def test_pending_comes_in_order_until_published(store: Store) -> None:
    assert store.record([(_event("b"), b"jpeg"), (_event("a"), None)]) == (1, 2)
    first, second = store.pending()
    assert (first.id, first.snapshot, second.id) == ("b", b"jpeg", "a")
    assert json.loads(first.event)["data"]["seq"] == first.seq < second.seq
    store.mark_published(first.seq)
    assert [entry.id for entry in store.pending()] == ["a"]
    assert store.depth() == 1


def test_repeated_id_keeps_its_first_json_and_seq(store: Store) -> None:
    store.record([(_event("a", n=1), None)])
    before = store.pending()
    assert store.record([(_event("a", n=2), b"late")]) == (1,)
    assert store.pending() == before


def test_record_is_all_or_nothing(store: Store) -> None:
    with pytest.raises(TypeError):
        store.record([(_event("a"), None)], {"good": 1, "bad": object()})
    assert store.pending() == []
    assert store.state("good") is None
    assert store.record([(_event("b"), None)]) == (1,)


def test_reopened_file_keeps_all_and_captions_are_searchable(path: Path) -> None:
    store = Store(path)
    store.record([(_event("a"), None)], {"rule": {"n": [1, 2.5]}}, [_caption("two dogs running")])
    store.close()
    again = Store(path)
    assert [entry.id for entry in again.pending()] == ["a"]
    assert again.state("rule") == {"n": [1, 2.5]}
    again.close()
    connection = sqlite3.connect(path)
    query = "SELECT text FROM caption_text WHERE caption_text MATCH ?"
    assert connection.execute(query, ("dog run",)).fetchall() == [("two dogs running",)]
    assert connection.execute(query, ("cat",)).fetchall() == []
    connection.close()


def test_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"this is no database " * 100)
    with pytest.raises(StoreError, match="cannot be opened") as caught:
        Store(path)
    assert "\n" not in str(caught.value)


def test_directory_in_its_place(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(path)


def test_newer_version_is_refused(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StoreError, match="newer version"):
        Store(path)


def test_a_store_is_held_by_one_run_at_a_time(tmp_path: Path):
    path = tmp_path / "new" / "store.db"
    hold = (
        "import sys; from pathlib import Path; from pipeline.store import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match="another run is using it"), exclusive(path):
            pass
    finally:
        other.kill()
        other.communicate()
    with exclusive(path):
        pass  # the system has freed it, however the other ended
