"""People answer alerts, and the rules of a running program hear of it."""

from __future__ import annotations

import fnmatch
import json
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from typer.testing import CliRunner
from waiting import until

from pipeline.alerts import (
    EmbeddedRedis,
    Event,
    Publisher,
    RedisSink,
    Reviewer,
    ReviewError,
    ReviewFollower,
    encode_alert,
    encode_review,
    subscribe,
)
from pipeline.alerts.codec import decode_review
from pipeline.alerts.redis_client import connect
from pipeline.alerts.render import event_line
from pipeline.captioner import CaptionedFrame
from pipeline.config import RedisConfig
from pipeline.messages import (
    Alert,
    AlertState,
    Caption,
    FrameRef,
    FrameStamp,
    Review,
    ReviewState,
)
from pipeline.rules import ReviewBook, RuleEngine, load_rules
from pipeline.rules.ruleset import make_rules
from pipeline.rules.schema import RulesFile
from pipeline.rules.stage import RuleStage, RuleStagePorts
from pipeline.store import Store
from run_stream import app

_ROOT = Path(__file__).parent.parent
_AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
_RULES = """
rules:
  - name: dogs
    keywords: [dog]
    severity: warning
    end_after_s: 2
    cooldown_s: 0
    escalate: {after_s: 60, severity: critical}
  - name: cats
    keywords: [cat]
    end_after_s: 2
    cooldown_s: 0
"""


class Clocks:
    """Wall and monotonic clock that a test moves, together or apart."""

    def __init__(self) -> None:
        self.at, self.steady_s = _AT, 1000.0

    def go(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        self.steady_s += seconds

    def wall(self) -> datetime:
        return self.at

    def monotonic_s(self) -> float:
        return self.steady_s


class Desk:
    """A rule stage over real rules and store, fed by hand, with clocks of its own."""

    def __init__(
        self, directory: Path, clocks: Clocks, follower: ReviewFollower | None = None
    ) -> None:
        (directory / "rules.yaml").write_text(_RULES)
        self.rules = load_rules(directory / "rules.yaml")
        self.clocks = clocks
        self.store = Store(directory / "desk.db")
        self.reviews: list[tuple[str, Review]] = []
        ports = RuleStagePorts(
            preview=lambda ref: np.zeros((48, 64, 3), np.uint8),
            release=lambda ref: None,
            wake=lambda: None,
            snapshot_key=lambda alert: f"watchword:snapshot:{alert.id}",
            reviews=follower.take if follower is not None else self._take,
        )
        self.book = ReviewBook(
            self.rules, self.store.state("reviews"), clocks.wall, clocks.monotonic_s
        )
        engine = RuleEngine(self.rules, clock=clocks.wall, state=self.store.state("rules"))
        self.stage = RuleStage(engine, self.book, self.store, ports)

    def see(self, text: str, camera: str = "door") -> list[Alert]:
        """One caption of a live camera, now; then what the stage published."""
        steady_ns = int(self.clocks.steady_s * 1e9)
        stamp = FrameStamp(camera, steady_ns, self.clocks.at, steady_ns, None)
        frame = CaptionedFrame(Caption(stamp, text, -1.0), FrameRef(stamp, 0, 64, 48))
        return [alert for judged in self.stage.process([frame]) for alert in judged.alerts]

    def _take(self) -> list[tuple[str, Review]]:
        taken, self.reviews = self.reviews, []
        return taken


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def desk(tmp_path: Path, clocks: Clocks) -> Iterator[Desk]:
    made = Desk(tmp_path, clocks)
    yield made
    made.store.close()


def _review(state: ReviewState, alert: Alert, until: datetime | None = None) -> Review:
    return Review(alert.id, 1, state, alert.stamp.camera, alert.rule, _AT, "ann", "", until)


def _states(alerts: list[Alert]) -> list[str]:
    return [alert.state.value for alert in alerts]


def _publish(store: Store, url: str) -> None:
    publisher = Publisher(store, RedisSink(RedisConfig(), url))
    publisher.start()
    assert publisher.stop() == 0


def test_alert_that_nobody_acknowledges_escalates_once(desk: Desk, clocks: Clocks) -> None:
    (started,) = desk.see("a dog")
    clocks.go(30)
    assert _states(desk.see("nothing")) == ["ended"]
    clocks.go(29)
    assert desk.see("nothing") == []
    clocks.go(2)
    (escalated,) = desk.see("nothing")
    assert (escalated.id, escalated.state) == (started.id, AlertState.ESCALATED)
    assert (started.severity, escalated.severity) == ("warning", "critical")
    assert escalated.seq is not None
    clocks.go(3600)
    assert desk.see("nothing") == []


def test_rule_without_escalate_never_does(desk: Desk, clocks: Clocks) -> None:
    assert _states(desk.see("a cat")) == ["started"]
    clocks.go(3600)
    assert _states(desk.see("nothing")) == ["ended"]


@pytest.mark.parametrize("state", [ReviewState.ACKNOWLEDGED, ReviewState.RESOLVED])
def test_answer_stops_the_escalation(desk: Desk, clocks: Clocks, state: ReviewState) -> None:
    (alert,) = desk.see("a dog")
    desk.reviews.append(("1-1", _review(state, alert)))
    clocks.go(3600)
    assert _states(desk.see("nothing")) == ["ended"]


def test_snooze_holds_its_rule_on_its_camera_and_passes(desk: Desk, clocks: Clocks) -> None:
    (alert,) = desk.see("a dog")
    snooze = _review(ReviewState.SNOOZED, alert, clocks.at + timedelta(minutes=10))
    desk.reviews.append(("1-1", snooze))
    clocks.go(5)
    assert _states(desk.see("nothing")) == ["ended"]
    clocks.go(5)
    assert desk.see("a dog") == []
    assert _states(desk.see("a dog", "gate")) == ["started"]
    assert _states(desk.see("a cat")) == ["started"]
    clocks.go(700)
    assert "started" in _states(desk.see("a dog"))


def test_snooze_of_globs_holds_a_camera_from_its_first_caption(desk: Desk, clocks: Clocks) -> None:
    snooze = Review(
        "s", 1, ReviewState.SNOOZED, "g*", "*", _AT, "ann", "", clocks.at + timedelta(minutes=10)
    )
    desk.reviews.append(("1-1", snooze))
    assert desk.see("a dog", "gate") == []
    assert _states(desk.see("a dog", "door")) == ["started"]
    lifted = Review("s2", 1, ReviewState.SNOOZED, "g*", "*", _AT, "ann", "", clocks.at)
    desk.reviews.append(("1-2", lifted))
    clocks.go(1)
    assert _states(desk.see("a dog", "gate")) == ["started"]


SUBJECTS = st.tuples(
    st.sampled_from(["yard1", "yard*", "*", "front"]), st.sampled_from(["dogs", "cats", "*"])
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("snooze"), SUBJECTS, st.integers(0, 50)),
            st.tuples(st.just("go"), st.integers(1, 40)),
            st.tuples(st.sampled_from(["look", "restart", "reload"])),
        ),
        max_size=12,
    )
)
def test_of_several_snoozes_the_longest_holds_and_none_outlasts_its_end(
    actions: list[tuple[Any, ...]],
) -> None:
    rules = make_rules(RulesFile.model_validate(yaml.safe_load(_RULES)))
    clocks = Clocks()
    book = ReviewBook(rules, None, clocks.wall, clocks.monotonic_s)
    engine = RuleEngine(rules)
    until: dict[tuple[str, str], datetime] = {}

    def look() -> None:
        for camera in ("yard1", "yard2", "front"):
            stamp = FrameStamp(camera, 1, clocks.at, int(clocks.steady_s * 1e9), None)
            book.tell_snoozes(engine, stamp)
            found = {a.rule for a in engine.process(Caption(stamp, "a dog and a cat", 0.0))}
            engine.flush(camera)
            held = {
                rule
                for (cameras, names), end in until.items()
                for rule in fnmatch.filter(["dogs", "cats"], names)
                if end > clocks.at and fnmatch.fnmatchcase(camera, cameras)
            }
            assert found == {"dogs", "cats"} - held
        assert all(_until(each) > clocks.at for each in book.snapshot()["snoozes"])

    for kind, *more in actions:
        if kind == "snooze":
            subject, seconds = more
            until[subject] = clocks.at + timedelta(seconds=seconds)
            review = Review("s", 1, ReviewState.SNOOZED, *subject, _AT, "ann", "", until[subject])
            book.take(review)
        elif kind == "go":
            clocks.go(more[0])
        elif kind == "look":
            look()
        elif kind == "reload":
            book.replace_rules(rules)
            engine.replace_rules(rules)
        else:
            kept = json.loads(json.dumps(book.snapshot()))
            book = ReviewBook(rules, kept, clocks.wall, clocks.monotonic_s)
            engine = RuleEngine(rules, state=engine.live_snapshot())
    look()


def _until(snooze: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(snooze["until"].replace("Z", "+00:00"))


def test_snoozes_and_waits_survive_a_restart(tmp_path: Path, clocks: Clocks) -> None:
    first = Desk(tmp_path, clocks)
    (alert,) = first.see("a dog")
    snooze = Review(
        "s", 1, ReviewState.SNOOZED, "gate", "cats", _AT, "ann", "", clocks.at + timedelta(hours=1)
    )
    first.reviews.append(("7-1", snooze))
    first.see("nothing")
    first.store.close()
    clocks.at += timedelta(seconds=61)
    clocks.steady_s = 5.0  # the machine started anew
    again = Desk(tmp_path, clocks)
    assert again.book.position == "7-1"
    (escalated,) = again.see("a cat", "gate")
    assert (escalated.id, escalated.state) == (alert.id, AlertState.ESCALATED)
    again.store.close()


def test_step_of_the_wall_clock_moves_no_wait_and_no_snooze(desk: Desk, clocks: Clocks) -> None:
    (alert,) = desk.see("a dog")
    snooze = _review(ReviewState.SNOOZED, alert, clocks.at + timedelta(minutes=10))
    desk.reviews.append(("1-1", Review(*("x", 1, ReviewState.SNOOZED, "door", "cats"),
                                       _AT, "ann", "", snooze.until)))  # fmt: skip
    desk.see("nothing")
    clocks.at += timedelta(hours=1)
    clocks.go(1)
    assert AlertState.ESCALATED not in [a.state for a in desk.see("a cat")]
    clocks.at -= timedelta(hours=2)
    clocks.go(60)
    assert "escalated" in _states(desk.see("a cat"))
    assert "cats" not in {a.rule for a in desk.see("a cat")}


def test_recordings_do_not_escalate(desk: Desk, clocks: Clocks) -> None:
    stamp = FrameStamp("clip", 1, _AT, 0, 2.0)
    alert = Alert(
        "a", 1, AlertState.STARTED, "dogs", "warning", (), stamp, _AT, _AT, _AT, 1, "a dog", 1.0, ()
    )
    desk.book.watch([alert])
    clocks.go(3600)
    assert desk.book.due() == []


def test_review_in_redis_reaches_subscribers_and_fits_the_schema(
    server: EmbeddedRedis, desk: Desk
) -> None:
    (alert,) = desk.see("a dog")
    _publish(desk.store, server.url)
    validator = Draft202012Validator(json.loads((_ROOT / "docs/events.schema.json").read_text()))
    with connect(server.url, 1.0) as client:
        reviewer = Reviewer(client)
        assert [record.status for record in reviewer.list()] == ["open"]
        assert reviewer.acknowledge(alert.id[:6], "ann", "seen it").revision == 1
        key = f"watchword:alert:{alert.id}"
        assert 0 < client.ttl(key) <= 7 * 24 * 3600
        client.expire(key, 30 * 24 * 3600)  # as where redis.snapshot_ttl_s is longer
        with pytest.raises(ReviewError, match="acknowledged by ann"):
            reviewer.acknowledge(alert.id, "bob")
        reviewer.snooze(alert.id, 60.0, "bob")
        reviewer.resolve(alert.id, "cat")
        for change in (reviewer.acknowledge, reviewer.resolve):
            with pytest.raises(ReviewError, match="resolved by cat"):
                change(alert.id, "dan")
        with pytest.raises(ReviewError, match="no alert"):
            reviewer.resolve("nope", "dan")
        record = reviewer.show(alert.id)
        assert (record.status, record.review and record.review["revision"]) == ("resolved", 3)
        assert client.ttl(key) > 29 * 24 * 3600
        raw: Any = client.xrange("watchword:alerts")
    events = [json.loads(fields[b"event"]) for _, fields in raw]
    assert [event["type"].rsplit(".")[-1] for event in events] == [
        "started", "acknowledged", "snoozed", "resolved",
    ]  # fmt: skip
    for event in events:
        validator.validate(event)
    answer = decode_review(events[1]["type"], events[1]["data"])
    assert answer is not None
    assert (answer.by, answer.note, encode_review(answer)) == ("ann", "seen it", events[1])
    reads = iter(range(2))
    heard = subscribe(
        server.url, since="1h", type="*.resolved", keep_going=lambda: next(reads, None) is not None
    )
    assert [event.camera for event in heard] == ["door"]


def test_of_two_people_at_once_one_is_refused(server: EmbeddedRedis, desk: Desk) -> None:
    (alert,) = desk.see("a dog")
    _publish(desk.store, server.url)
    refused: list[str] = []

    def answer(name: str) -> None:
        with connect(server.url, 5.0) as client:
            try:
                Reviewer(client).resolve(alert.id, name)
            except ReviewError:
                refused.append(name)

    people = [threading.Thread(target=answer, args=(f"p{n}",)) for n in range(8)]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert len(refused) == 7
    assert redis.Redis.from_url(server.url).xlen("watchword:alerts") == 2


def test_escalated_alert_that_is_over_stays_over(server: EmbeddedRedis, desk: Desk) -> None:
    desk.see("a dog")
    desk.clocks.go(3600)
    assert _states(desk.see("nothing")) == ["ended", "escalated"]
    _publish(desk.store, server.url)
    with connect(server.url, 1.0) as client:
        (record,) = Reviewer(client).list()
    assert (record.status, record.escalated) == ("over", True)
    for status, listed in (("escalated", 1), ("over", 1), ("open", 0)):
        arguments = ["alerts", "list", "--status", status, "--redis-url", server.url]
        lines = CliRunner().invoke(app, arguments).output.splitlines()
        assert len(lines) == listed
        assert all("over, escalated" in line for line in lines)


def test_running_program_hears_of_a_snooze(
    server: EmbeddedRedis, tmp_path: Path, clocks: Clocks
) -> None:
    clocks.at = datetime.now(timezone.utc)
    follower = ReviewFollower(RedisConfig(), server.url, "0-0")
    follower.start()
    desk = Desk(tmp_path, clocks, follower)
    (alert,) = desk.see("a dog")
    _publish(desk.store, server.url)
    with connect(server.url, 1.0) as client:
        Reviewer(client).snooze(alert.id, 3600.0, "ann")

    def heard() -> bool:
        desk.see("nothing")
        return desk.book.position is not None

    until(heard)
    clocks.go(10)
    desk.see("nothing")
    assert desk.see("a dog") == []
    follower.stop()
    desk.store.close()


def test_command_line_lists_and_answers(server: EmbeddedRedis, desk: Desk) -> None:
    for camera in ("door", "gate"):
        desk.see("a dog", camera)
    _publish(desk.store, server.url)

    def alerts(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["alerts", *arguments, "--redis-url", server.url])
        assert done.exit_code == 0, done.output
        return done.output

    lines = alerts("list").splitlines()
    assert len(lines) == 2
    assert all("open" in line for line in lines)
    alert_id = alerts("list", "--camera", "gate").split()[0]
    assert "acknowledged" in alerts("ack", alert_id, "--by", "ann", "--note", "looking")
    (shown,) = alerts("list", "--status", "acknowledged", "--json").splitlines()
    assert json.loads(shown)["review"]["note"] == "looking"
    assert "looking" in alerts("show", alert_id)
    assert "until" in alerts("snooze", alert_id, "--for", "15m")
    assert "snoozed" in alerts("list", "--camera", "gate")
    assert "snoozed no more" in alerts("snooze", alert_id, "--for", "0s")
    assert "open" in alerts("list", "--camera", "gate")
    event = json.loads(alerts("snooze", "--camera", "g*", "--for", "1h", "--json"))
    assert (event["data"]["camera"], event["data"]["rule"]) == ("g*", "*")
    assert "resolved" in alerts("resolve", alert_id)
    assert len(alerts("list", "--status", "open").splitlines()) == 1


def test_of_several_runs_the_one_that_knows_the_alert_is_answered(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.see("a dog")
    with EmbeddedRedis() as newer, EmbeddedRedis() as older:
        _publish(desk.store, older.url)
        urls = [newer.url, older.url]
        for module in ("pipeline.commands.alerts", "pipeline.commands.common"):
            monkeypatch.setattr(f"{module}.running_servers", lambda: urls)
        with connect(older.url, 1.0) as client:
            (record,) = Reviewer(client).list()
        runner = CliRunner()
        unknown = runner.invoke(app, ["alerts", "ack", "nope"])
        assert (unknown.exit_code, "no alert 'nope'" in unknown.stderr) == (1, True)
        done = runner.invoke(app, ["alerts", "ack", record.id[:8], "--by", "ann"])
        assert done.exit_code == 0, done.output
        assert "acknowledged" in done.output


def test_command_line_says_what_is_wrong(server: EmbeddedRedis) -> None:
    runner = CliRunner()
    unknown = runner.invoke(app, ["alerts", "ack", "nope", "--redis-url", server.url])
    assert unknown.exit_code == 1
    assert "no alert 'nope'" in unknown.stderr
    away = runner.invoke(
        app, ["alerts", "list", "--redis-url", "redis://user:hunter2@127.0.0.1:1/0"]
    )
    assert away.exit_code == 1
    assert "127.0.0.1:1" in away.stderr
    assert "hunter2" not in away.stderr
    for wrong in (["snooze"], ["snooze", "x", "--rule", "y"], ["snooze", "x", "--for", "soon"]):
        done = runner.invoke(app, ["alerts", *wrong])
        assert isinstance(done.exception, ValueError)


def test_alert_events_are_no_reviews(desk: Desk) -> None:
    (alert,) = desk.see("a dog")
    event = encode_alert(alert)
    assert decode_review(event["type"], event["data"]) is None
    assert decode_review("watchword.alert.snoozed", {"alert_id": "a"}) is None


def test_answer_is_one_readable_line() -> None:
    review = Review("a1", 1, ReviewState.SNOOZED, "door", "dogs", _AT, "ann", "no\nmore", _AT)
    event = encode_review(review)
    line = event_line(Event(event["id"], event["type"], event["time"], event["data"], "1-1", event))
    assert "alert.snoozed door dogs: a1 by ann until 2026-01-02T03:04:05.000006Z: no more" in line
    told = Event(event["id"], event["type"], event["time"], event["data"], "1-1", event)
    assert json.loads(event_line(told, as_json=True)) == json.loads(json.dumps(event))
