"""The store within its limits: retention, several sinks, and a full disk that costs no alert."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import until

from pipeline.captioner import CaptionedFrame
from pipeline.messages import AlertState, Caption, FrameRef, FrameStamp
from pipeline.rules import ReviewBook, RuleEngine, load_rules
from pipeline.rules.stage import Judged, RuleStage, RuleStagePorts
from pipeline.store import Backlog, Housekeeper, Retention, Store, StoreError, Work
from pipeline.store.schema import _FIRST

_AT = datetime(2026, 1, 2, tzinfo=timezone.utc)


def _event(name: str, **data: Any) -> dict[str, Any]:
    return {"id": name, "data": data}


def _caption(number: int, text: str = "a car is on fire") -> Caption:
    at_s = 15.0 * number
    stamp = FrameStamp("door", number, _AT + timedelta(seconds=at_s), 0, at_s)
    return Caption(stamp, text, 0.0)  # written by people: one is enough


def _rows(path: Path, query: str) -> list[Any]:
    connection = sqlite3.connect(path)
    rows = connection.execute(query).fetchall()
    connection.close()
    return rows


def test_each_sink_takes_an_event_by_itself(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db", sinks=("redis", "webhook:desk"))
    store.record([(_event("a"), b"jpeg"), (_event("b"), None)])
    store.mark_published(1)
    assert [entry.id for entry in store.pending()] == ["b"]
    assert [entry.id for entry in store.pending("webhook:desk")] == ["a", "b"]
    assert store.pending("webhook:desk")[0].snapshot == b"jpeg"
    store.mark_published(1, "webhook:desk")
    assert (store.depth(), store.depth("webhook:desk")) == (1, 1)
    store.close()
    again = Store(tmp_path / "store.db")
    assert again.drop_other_sinks() == {"webhook:desk": 1}
    assert again.depth("webhook:desk") == 0
    assert again.depth() == 1
    again.close()


def test_file_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    connection = sqlite3.connect(path)
    connection.executescript(f"BEGIN; {_FIRST} PRAGMA user_version=1; COMMIT;")
    connection.execute(
        "INSERT INTO outbox (id, event, published_at)"
        " VALUES ('old', '{}', '2026'), ('new', '{}', NULL)"
    )
    remembered = {
        "gate": {"boot": "b", "last": {"sequence": 1}},
        "clip": {"boot": "b", "last": {"sequence": 1, "position_s": 2.0}},
    }
    rows = [("rules", json.dumps(remembered)), ("reviews", "{}")]
    connection.executemany("INSERT INTO state VALUES (?, ?)", rows)
    connection.commit()
    connection.close()
    store = Store(path)
    assert [entry.id for entry in store.pending()] == ["new"]
    store.mark_published(2)
    assert store.depth() == 0
    assert store.states("rules:") == {"gate": {"boot": "b", "last": {"sequence": 1}}}
    assert (store.state("rules"), store.state("reviews")) == (None, {})
    store.close()


class Clock:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.now = _AT

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    opened = Store(tmp_path / "timed.db", clock=clock)
    yield opened
    opened.close()


def test_published_events_go_by_age_and_waiting_ones_never(timed: Store, clock: Clock) -> None:
    timed.record([(_event("a"), None), (_event("b"), None)])
    timed.mark_published(1)
    clock.now += timedelta(days=29)
    assert timed.prune(Retention()) == 0
    clock.now += timedelta(days=2)
    assert timed.prune(Retention()) == 1
    assert timed.prune(Retention()) == 0
    assert [row[0] for row in _rows(timed.path, "SELECT id FROM outbox")] == ["b"]


def test_captions_go_by_the_age_of_the_archive_not_of_the_recording(
    timed: Store, clock: Clock
) -> None:
    timed.record(captions=[_caption(0, "an old dog")])
    clock.now += timedelta(days=20)
    timed.record(captions=[_caption(1, "a new dog")])  # seconds later in the recording
    clock.now += timedelta(days=11)
    assert timed.prune(Retention()) == 1
    found = _rows(timed.path, "SELECT text FROM caption_text WHERE caption_text MATCH 'dog'")
    assert found == [("a new dog",)]


def test_size_limit_keeps_the_newest_and_gives_disk_space_back(store: Store) -> None:
    store.record(captions=[_caption(number, f"word{number} " * 40) for number in range(4000)])
    _rows(store.path, "PRAGMA wal_checkpoint(TRUNCATE)")
    before = store.path.stat().st_size
    helpings = 0
    while store.prune(Retention(caption_max_mib=1.0)):
        helpings += 1
    assert 1 < helpings < 8
    newest, oldest = _rows(store.path, "SELECT max(sequence), min(sequence) FROM caption")[0]
    assert newest == 3999
    assert oldest > 0
    _rows(store.path, "PRAGMA wal_checkpoint(TRUNCATE)")
    assert store.path.stat().st_size < before


def test_housekeeper_prunes_and_ends(timed: Store, clock: Clock) -> None:
    timed.record(captions=[_caption(0)])
    clock.now += timedelta(days=31)
    keeper = Housekeeper(timed, Retention())
    keeper.start()
    until(lambda: _rows(timed.path, "SELECT count(*) FROM caption") == [(0,)])
    keeper.stop()
    keeper.stop()


def _fill(connection: sqlite3.Connection) -> None:
    """Let the file grow no more: SQLite's own "database or disk is full"."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages}")


def _free(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA max_page_count=1000000")


def test_backlog_holds_events_and_lets_captions_pass(store: Store) -> None:
    backlog: Backlog[str] = Backlog(store)
    _fill(store._connection)
    big = "x" * 100_000
    assert (
        backlog.save(
            {"rules:a": 1, "rules:b": 1}, Work("alert", ((_event("a", text=big), b"jpeg"),))
        )
        == []
    )
    assert backlog.save({"rules:a": 2}, Work("caption", (), (_caption(0, big),))) == [
        ("caption", ())
    ]
    assert len(backlog) == 1
    assert backlog.error is not None
    assert "full" in backlog.error
    _free(store._connection)
    assert backlog.save({"rules:c": 3}, Work("next", ((_event("b"), None),))) == [
        ("alert", (1,)),
        ("next", (2,)),
    ]
    assert len(backlog) == 0
    assert backlog.error is None
    assert store.states("rules:") == {"a": 2, "b": 1, "c": 3}  # none that was refused is lost
    assert [entry.id for entry in store.pending()] == ["a", "b"]


def test_backlog_keeps_only_the_newest_pictures(store: Store) -> None:
    backlog: Backlog[int] = Backlog(store)
    _fill(store._connection)
    for number in range(250):
        backlog.save(None, Work(number, ((_event(f"e{number}", text="x" * 20_000), b"jpeg"),)))
    _free(store._connection)
    assert len(backlog.save(None)) == 250
    pictured = [entry.seq for entry in store.pending(limit=1000) if entry.snapshot]
    assert pictured == list(range(51, 251))


def _stage(store: Store) -> RuleStage:
    rules = load_rules(Path(__file__).parent.parent / "configs" / "rules.yaml")
    ports = RuleStagePorts(
        preview=lambda ref: np.zeros((48, 64, 3), np.uint8),
        release=lambda ref: None,
        wake=lambda: None,
        snapshot_key=lambda alert: f"watchword:snapshot:{alert.id}",
    )
    return RuleStage(RuleEngine(rules), ReviewBook(rules), store, ports)


def _frames(count: int) -> list[CaptionedFrame]:
    captions = [_caption(n, "a car is on fire" if n % 8 < 4 else "a street") for n in range(count)]
    return [CaptionedFrame(caption, FrameRef(caption.stamp, 0, 64, 48)) for caption in captions]


def _ids(judged: list[Judged]) -> list[tuple[str, str, int]]:
    return [(a.id, a.state.value, a.revision) for each in judged for a in each.alerts]


def test_an_alert_that_starts_goes_on_with_its_picture_and_no_other_does(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    out = list(_stage(store).process(_frames(40)))
    store.close()
    started = {a.id for each in out for a in each.alerts if a.state is AlertState.STARTED}
    pictured = [key for each in out for key in each.pictures]
    assert sorted(pictured) == sorted(started) and started
    assert all(jpeg.startswith(b"\xff\xd8") for each in out for jpeg in each.pictures.values())


def test_a_caption_writes_its_own_cameras_state_and_a_recording_none(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    stage = _stage(store)
    list(stage.process(_frames(3)))
    assert set(store.states("rules:")) <= {"*"}
    live = [
        CaptionedFrame(replace(item.caption, stamp=stamp), replace(item.ref, stamp=stamp))
        for item in _frames(3)
        for stamp in [replace(item.caption.stamp, camera="gate", position_s=None)]
    ]
    list(stage.process(live))
    states = store.states("rules:")
    assert set(states) == {"gate", "*"}
    assert states["gate"]["tracks"]["fire"]["alert"]["state"] == "started"
    store.record(state={"rules:gate": "as another camera's caption leaves it"})
    stamp = replace(live[0].caption.stamp, camera="yard")
    yard = CaptionedFrame(replace(live[0].caption, stamp=stamp), replace(live[0].ref, stamp=stamp))
    list(stage.process([yard]))
    assert set(store.states("rules:")) == {"gate", "yard", "*"}
    assert store.states("rules:")["gate"] == "as another camera's caption leaves it"
    store.close()


def test_rule_stage_on_a_full_disk_loses_no_alert(tmp_path: Path) -> None:
    unbroken = Store(tmp_path / "unbroken.db")
    expected = _ids(list(_stage(unbroken).process(_frames(40))))
    unbroken.close()
    assert len(expected) > 8
    store = Store(tmp_path / "full.db")
    stage = _stage(store)
    frames = _frames(40)
    out = list(stage.process(frames[:10]))
    _fill(store._connection)
    store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    out += list(stage.process(frames[10:30]))
    captions_meanwhile = sum(each.caption is not None for each in out)
    assert captions_meanwhile == 30
    assert len(stage._backlog) > 0
    assert "full" in str(stage.store_problem)
    _free(store._connection)
    out += list(stage.process(frames[30:]))
    assert stage.store_problem is None
    assert _ids(out) == expected
    assert [alert.seq for each in out for alert in each.alerts] == list(range(1, len(expected) + 1))
    assert len(store.pending(limit=1000)) == len(expected)
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB of our own."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a tmpfs needs root")
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mount)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode != 0:
        pytest.skip(f"no tmpfs may be mounted here: {made.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


@pytest.mark.fault
def test_real_full_disk_takes_alerts_from_the_reserve_and_recovers(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(small_disk / "store.db", reserve_mib=2)
    assert not store.short_of_space
    with pytest.raises(OSError, match="No space"), (small_disk / "ballast").open("wb") as ballast:
        while True:
            ballast.write(bytes(1 << 16))
    for number in range(20):  # 20 * 40 kB: more than what SQLite holds already
        store.record([(_event(f"e{number}"), bytes(40_000))], None, [_caption(number)])
    assert "the disk is full" in caplog.text
    assert store.short_of_space
    assert store.depth() == 20
    (small_disk / "ballast").unlink()
    store.prune(Retention())
    assert not store.short_of_space
    store.record(captions=[_caption(99, "archived again")])
    texts = _rows(store.path, "SELECT text FROM caption WHERE sequence = 99")
    assert texts == [("archived again",)]
    store.close()


@pytest.mark.fault
def test_disk_fuller_than_the_reserve_is_an_error_that_passes(small_disk: Path) -> None:
    store = Store(small_disk / "store.db")
    with pytest.raises(OSError, match="No space"), (small_disk / "ballast").open("wb") as ballast:
        while True:
            ballast.write(bytes(1 << 16))
    with pytest.raises(StoreError, match=r"full|I/O"):
        store.record([(_event("a"), bytes(6_000_000))])
    (small_disk / "ballast").unlink()
    store.record([(_event("a"), bytes(600_000))])
    assert store.depth() == 1
    store.close()
