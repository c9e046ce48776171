"""The published JSON Schema fits every event, and fits nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from pipeline.alerts import encode_alert, encode_camera_event
from pipeline.messages import (
    Alert,
    AlertState,
    CameraEvent,
    CameraState,
    Caption,
    Evidence,
    FrameStamp,
    Region,
)
from pipeline.rules import RuleEngine, load_rules
from pipeline.store import Store

_ROOT = Path(__file__).parent.parent
_SCHEMA = json.loads((_ROOT / "docs" / "events.schema.json").read_text())
_VALIDATOR = Draft202012Validator(_SCHEMA)
_AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
_FRACTIONS = st.floats(0, 1)
_TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(timezone.utc))  # noqa: DTZ001


def _numbered(event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "data": {**event["data"], "seq": 1}}


def _valid_alert() -> dict[str, Any]:
    stamp = FrameStamp("door", 1, _AT, 0, 2.0)
    evidence = (Evidence("dog", "dog", (2, 5), 0.5),)
    return _numbered(
        encode_alert(
            Alert(
                "a1", 1, AlertState.STARTED, "dogs", "high", (), stamp, _AT, _AT, _AT, 1, "a dog",
                0.5, evidence,
            )
        )
    )  # fmt: skip


def test_schema_is_one() -> None:
    Draft202012Validator.check_schema(_SCHEMA)


@given(
    state=st.sampled_from(AlertState),
    text=st.text(),
    probability=_FRACTIONS,
    corner=st.tuples(_FRACTIONS, _FRACTIONS),
    time=_TIMES,
    position_s=st.none() | st.floats(0, 1e6),
)
def test_alerts_fit(
    state: AlertState,
    text: str,
    probability: float,
    corner: tuple[float, float],
    time: datetime,
    position_s: float | None,
) -> None:
    keyword = Evidence(text, text, (0, len(text)), probability)
    stamp = FrameStamp("door", 1, time, 0, position_s)
    alert = Alert(
        "a1", 3, state, "dogs", "high", ("x", text), stamp, time, time, time, 1, text,
        probability, (keyword,), Region(*corner, 0.5, 0.5), {"beams": probability},
    )  # fmt: skip
    _VALIDATOR.validate(
        json.loads(json.dumps(_numbered(encode_alert(replace(alert, snapshot="key")))))
    )


@given(state=st.sampled_from(CameraState), reason=st.text(), last=st.none() | _TIMES)
def test_camera_events_fit(state: CameraState, reason: str, last: datetime | None) -> None:
    event = encode_camera_event(CameraEvent("door", state, reason, _AT, last, 2))
    _VALIDATOR.validate(json.loads(json.dumps(_numbered(event))))


def test_events_of_the_shipped_rules_fit_as_the_outbox_holds_them(tmp_path: Path) -> None:
    engine = RuleEngine(load_rules(_ROOT / "configs" / "rules.yaml"))
    alerts: list[Alert] = []
    for number in range(20):
        at_s = 2.0 * number
        stamp = FrameStamp("door", number, _AT + timedelta(seconds=at_s), 0, at_s)
        text = "a car is on fire" if number % 10 < 3 else "an empty street"
        alerts += engine.process(Caption(stamp, text, -1.0))
    store = Store(tmp_path / "store.db")
    store.record([(encode_alert(alert), None) for alert in alerts])
    events = [json.loads(entry.event) for entry in store.pending()]
    store.close()
    assert {event["type"].rsplit(".", 1)[1] for event in events} >= {"started", "ended"}
    for event in events:
        _VALIDATOR.validate(event)


def _without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda event: event["data"].pop(name)


@pytest.mark.parametrize(
    "spoil",
    [
        _without("seq"),
        _without("alert_id"),
        lambda event: event.update(type="watchword.alert.begun"),
        lambda event: event.update(type="watchword.camera.online"),
        lambda event: event.update(time="2026-01-02T03:04:05+00:00"),
        lambda event: event["data"].update(probability=1.5),
        lambda event: event["data"].update(media_time_s="2.0"),
        lambda event: event.pop("id"),
    ],
)
def test_spoilt_event_does_not_fit(spoil: Callable[[dict[str, Any]], object]) -> None:
    event = _valid_alert()
    _VALIDATOR.validate(event)
    spoil(event)
    assert not _VALIDATOR.is_valid(event)
