"""What rules once got wrong: silent cameras, edited sequences, lasting absences, far negations."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.captioner import CaptionedFrame
from pipeline.messages import Alert, AlertState, Caption, FrameRef, FrameStamp
from pipeline.rules import ReviewBook, RuleEngine, RuleSet, load_rules, replay
from pipeline.rules.ruleset import make_rules
from pipeline.rules.schema import RulesFile
from pipeline.rules.stage import RuleStage, RuleStagePorts
from pipeline.store import Store
from pipeline.yaml_models import ConfigError

START = datetime(2026, 1, 5, 8, tzinfo=timezone.utc)  # a Monday
EMPTY, PERSON, HIDDEN = "an empty desk", "a person at a desk", "a dog at a desk"


def rules_of(**fields: object) -> RuleSet:
    return make_rules(RulesFile.model_validate({"rules": [{"name": "rule", **fields}]}))


def caption(text: str, time_s: float, camera: str = "desk", *, live: bool = True) -> Caption:
    moment = START + timedelta(seconds=time_s)
    position_s = None if live else time_s
    steady_ns = int((1000 + time_s) * 1e9)
    return Caption(FrameStamp(camera, int(time_s * 10), moment, steady_ns, position_s), text, 0.0)


def started(alerts: list[Alert]) -> list[Alert]:
    return [alert for alert in alerts if alert.state is AlertState.STARTED]


# Silent cameras


def stage_of(rules: RuleSet, store: Store) -> RuleStage:
    ports = RuleStagePorts(
        preview=lambda ref: np.zeros((48, 64, 3), np.uint8),
        release=lambda ref: None,
        wake=lambda: None,
        snapshot_key=lambda alert: alert.id,
    )
    return RuleStage(RuleEngine(rules), ReviewBook(rules), store, ports)


def seen(stage: RuleStage, *captions: Caption) -> list[tuple[str, str]]:
    frames = [CaptionedFrame(one, FrameRef(one.stamp, 0, 64, 48)) for one in captions]
    judged = [each for frame in frames for each in stage.process([frame])]
    return [(a.stamp.camera, a.state.value) for each in judged for a in each.alerts]


@pytest.mark.parametrize("live", [True, False])
def test_a_camera_that_falls_silent_ends_its_alert_though_others_go_on(
    tmp_path: Path, live: bool
) -> None:
    store = Store(tmp_path / "store.db")
    stage = stage_of(rules_of(keywords=["person"], end_after_s=5), store)
    assert seen(stage, caption(PERSON, 0, "silent")) == [("silent", "started")]
    others = [caption(EMPTY, at / 4, "other", live=live) for at in range(1, 100)]
    assert seen(stage, *others[:60]) == []
    assert seen(stage, *others[60:]) == [("silent", "ended")]
    store.close()


def test_captions_that_come_late_end_no_alert_that_goes_on(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")  # the machine's clock is long past these frames
    stage = stage_of(rules_of(keywords=["person"], end_after_s=5, update_every_s=1000), store)
    both = [caption(PERSON, at, camera) for at in range(30) for camera in ("a", "b")]
    assert seen(stage, *both) == [("a", "started"), ("b", "started")]
    store.close()


def test_a_camera_whose_captions_come_later_than_anothers_keeps_its_alert(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    stage = stage_of(rules_of(keywords=["person"], end_after_s=5, update_every_s=1000), store)
    one_behind = [
        each
        for at in range(60)
        for each in (caption(EMPTY, at + 10, "ahead"), caption(PERSON, at, "behind"))
    ]
    assert seen(stage, *one_behind) == [("behind", "started")]
    store.close()


def test_recordings_end_by_their_own_clock_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    stage = stage_of(rules_of(keywords=["person"], end_after_s=5), store)
    assert seen(stage, caption(PERSON, 0, "film", live=False)) == [("film", "started")]
    assert seen(stage, *(caption(EMPTY, at, "other") for at in range(60))) == []
    assert seen(stage, caption(EMPTY, 6, "film", live=False)) == [("film", "ended")]
    store.close()


# Sequences

STEPS = ["enter", "take", "leave", "run"]
Sequence = list[str]


@settings(max_examples=60, deadline=None)
@given(
    before=st.lists(st.sampled_from(STEPS), min_size=1, max_size=4),
    after=st.lists(st.sampled_from(STEPS), min_size=1, max_size=4),
    first=st.lists(st.sampled_from(STEPS), max_size=6),
    then=st.lists(st.sampled_from(STEPS), max_size=6),
    restart=st.booleans(),
)
def test_an_edited_sequence_begins_anew_and_an_unchanged_one_goes_on(
    before: Sequence, after: Sequence, first: Sequence, then: Sequence, restart: bool
) -> None:
    old, new = (
        rules_of(sequence=[{"keywords": [word]} for word in words], cooldown_s=0, end_after_s=0.5)
        for words in (before, after)
    )
    shown = [caption(f"a man {word}s", at) for at, word in enumerate([*first, *then])]
    engine = RuleEngine(old)
    for one in shown[: len(first)]:
        engine.process(one)
    if restart:
        engine = RuleEngine(new, state=engine.live_snapshot())
    else:
        engine.replace_rules(new)
    ids = [a.id for one in shown[len(first) :] for a in started(engine.process(one))]
    watched = shown if before == after else shown[len(first) :]
    expected = started(list(replay(watched, new)))
    begun = {one.stamp.captured_at for one in shown[len(first) :]}
    assert ids == [alert.id for alert in expected if alert.stamp.captured_at in begun]


def test_state_of_a_version_that_noted_no_steps_goes_on_as_far_as_there_are_so_many() -> None:
    three, one = ({"sequence": [{"keywords": [w]} for w in STEPS[:n]]} for n in (3, 1))
    engine = RuleEngine(rules_of(**three))
    for at, word in enumerate(STEPS[:2]):
        engine.process(caption(f"a man {word}s", at))
    state = engine.live_snapshot()
    del state["desk"]["tracks"]["rule"]["steps"]
    last = caption("a man leaves", 3)
    assert len(started(RuleEngine(rules_of(**three), state=state).process(last))) == 1
    assert started(RuleEngine(rules_of(**one), state=state).process(last)) == []


ABSENCE = {
    "sequence": [{"keywords": ["person"], "absent_for_s": 60}],
    "none": ["dog"],
    "end_after_s": 20,
    "cooldown_s": 0,
    "schedule": [
        {"start": "08:00", "end": "08:05", "time_zone": "UTC"},
        {"start": "08:10", "end": "08:20", "time_zone": "UTC"},
    ],
}


@settings(max_examples=60, deadline=None)
@given(
    spells=st.lists(
        st.tuples(st.sampled_from([EMPTY, PERSON, HIDDEN]), st.integers(1, 40)), max_size=12
    ),
    stops=st.sets(st.integers(0, 400)),
)
def test_every_alert_of_an_absence_has_an_id_of_its_own_and_the_same_each_time(
    spells: list[tuple[str, int]], stops: set[int]
) -> None:
    rules = rules_of(**ABSENCE)
    texts = [text for text, count in spells for _ in range(count)]

    def run() -> list[str]:
        engine, ids = RuleEngine(rules), []
        for at, text in enumerate(texts):
            ids += [alert.id for alert in started(engine.process(caption(text, 5.0 * at)))]
            if at in stops:  # stopped in an orderly way, and started again
                engine.flush()
                engine = RuleEngine(rules, state=engine.live_snapshot())
        return ids

    ids = run()
    assert len(set(ids)) == len(ids)
    assert run() == ids


def test_an_absence_that_outlasts_its_schedule_alerts_again_when_it_opens() -> None:
    engine = RuleEngine(rules_of(**ABSENCE))
    found = [a for at in range(0, 720, 5) for a in engine.process(caption(EMPTY, at))]
    told = [(a.stamp.captured_at - START, a.state.value) for a in found if a.state.value[0] != "u"]
    at = [timedelta(seconds=seconds) for seconds in (60, 320, 600)]
    assert told == list(zip(at, ["started", "ended", "started"], strict=True))
    (over,) = [a for a in found if a.state is AlertState.ENDED]
    assert started(found)[1].first_seen == over.last_seen


def test_a_silenced_caption_is_neither_somebody_nor_nobody() -> None:
    engine = RuleEngine(rules_of(**ABSENCE))

    def starts(text: str, *times_s: int) -> list[int]:
        return [at for at in times_s if started(engine.process(caption(text, at)))]

    assert starts(f"{PERSON} with a dog", *range(0, 120, 5)) == [], "nobody is away"
    assert starts(EMPTY, *range(120, 150, 5)) == []
    assert starts(f"{PERSON} with a dog", 150, 155) == []
    assert starts(EMPTY, *range(160, 200, 5)) == [180], "nobody has come"
    assert starts(HIDDEN, *range(200, 240, 5)) == []
    assert starts(EMPTY, *range(240, 290, 5)) == [], "it was not watched for too long"


# Mistakes in files and texts


@pytest.mark.parametrize("moment", ["22:00Z", "22:00:00+02:00"])
@pytest.mark.parametrize("key", ["start", "end"])
def test_a_time_of_day_with_a_zone_is_refused_with_what_to_write(
    tmp_path: Path, key: str, moment: str
) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(f'rules:\n- name: x\n  keywords: [man]\n  schedule: [{{{key}: "{moment}"}}]\n')
    with pytest.raises(ConfigError, match=rf":4: .*{key}: .*name the zone under 'time_zone'"):
        load_rules(path)


@given(st.text(st.characters(categories=["Nd", "Nl", "No"]), min_size=1, max_size=3))
@example("²")
def test_no_sign_that_looks_like_a_number_breaks_a_count(sign: str) -> None:
    list(replay([caption(f"{sign} people", 0)], rules_of(keywords=["3+ person"])))


# Negation


def finds(keyword: str, text: str) -> bool:
    return rules_of(keywords=[keyword]).rules[0].finds(text)


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("punch", "a man without a shirt punches another man"),
        ("fight", "a man with no shirt fights another man"),
        ("fight", "a man with no shirt suddenly fights in the street"),
        ("fight", "two men with no shirts fight"),
        ("fight", "two men with no shirt fight each other"),
        ("fight", "a man without a shirt fighting another man"),
        ("fight", "a man wearing no shirt gets into a fight"),
        ("crash", "a car without lights crashes into a wall"),
        ("crash", "a man with no helmet crashes his motorcycle"),
        ("fall", "a man without a helmet falls off a motorcycle"),
        ("fall", "a man without a helmet fell off a motorcycle"),
        ("hit", "a man without a helmet hit by a car"),
        ("hit", "a car without stopping hits a man"),
        ("point ... gun", "a person without a mask points a gun at the cashier"),
        ("gun", "a person without a mask points a gun at the cashier"),
        ("gun", "a man with no shirt and a gun"),
        ("gun", "a man toying with a gun"),
        ("knife", "a boy with a toy holds a knife"),
        ("fire", "a man without a coat near a fire"),
        ("fire", "a man without a shirt runs from a fire"),
        ("fire", "a house without a roof is on fire"),
        ("hit", "a boy with a toy hits another boy"),
        ("hit", "a boy with a toy hit another boy"),
        ("person ... hit", "a boy with a toy hit another boy"),
        ("hit", "two boys with toys hit each other"),
        ("hit", "a boy holding a toy truck hits his brother"),
        ("fight", "a man with a fake beard fights a boy"),
        ("steal", "a man without a mask stole a bag"),
        ("punching", "a man with no people punching another man"),
        ("gun", "a man without a shirt and a gun"),
    ],
)
def test_what_somebody_has_or_not_takes_nothing_back_that_he_does(keyword: str, text: str) -> None:
    assert finds(keyword, text)


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("fire", "no fire"),
        ("fire", "no sign of smoke or fire"),
        ("fire", "a house without any sign of a fire"),
        ("fire", "a road without signs of fire"),
        ("fire", "a yard without smoke and fire"),
        ("weapon", "a man without a weapon"),
        ("weapon", "a man without any weapons"),
        ("weapon", "a person without a dangerous weapon"),
        ("knife", "a man without a rusty kitchen knife"),
        ("knife", "a man with no visible knife"),
        ("gun", "a man with no gun"),
        ("gun", "no man holds a gun"),
        ("gun", "a toy gun"),
        ("gun", "a child holds a toy gun"),
        ("gun", "children with toy guns"),
        ("gun", "a child with a toy machine gun"),
        ("gun", "a man with a fake gun"),
        ("gun", "a phone instead of a gun"),
        ("fight", "no people are fighting"),
        ("fight", "nobody is fighting"),
        ("fight", "no one is fighting"),
        ("fight", "there is no fight"),
        ("fight", "no men fight"),
        ("fight", "a street with no fights"),
        ("fight", "the prisoner had no power to fight back"),
        ("fight", "a mock fight"),
        ("fight", "boys with a mock sword fight"),
        ("hit", "a car passes without hitting the wall"),
        ("hit", "a man crosses without being hit by a car"),
        ("hit", "a car drives without anyone getting hit by it"),
        ("crash", "a car drives without stopping or crashing"),
        ("crash", "a toy car crashes into a wall"),
        ("flames", "a street with no smoke and flames"),
        ("fires", "a road free of cars and fires"),
        ("crashes", "a street with no fights and crashes"),
        ("guns", "a man without shoes and guns"),
        ("guns", "a man with no hand guns"),
        ("fighting", "a hall with no people fighting"),
        ("fighting", "an alley without any person fighting"),
        ("crashing", "a street with no cars crashing"),
    ],
)
def test_what_is_said_not_to_be_there_is_taken_back(keyword: str, text: str) -> None:
    assert not finds(keyword, text)
