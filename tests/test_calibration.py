"""Thresholds chosen on labelled captions."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.alerts import labels
from benchmarks.timelines import Footage, Segment, Timeline
from pipeline.commands.rules import app
from pipeline.messages import Caption, Concept, FrameStamp, Word
from pipeline.outputs.lines import caption_line, to_json_line
from pipeline.rules.calibration import Label, Threshold, calibrate, chosen, read_labels
from pipeline.rules.ruleset import RuleSet, make_rules
from pipeline.rules.schema import RulesFile
from pipeline.yaml_models import ConfigError

START = datetime(2026, 1, 5, 12, tzinfo=timezone.utc)
RULE = {"name": "fire", "tags": ["fire"], "keywords": ["fire"], "cooldown_s": 0, "end_after_s": 5}
LABELS = [Label(camera="cam", tags=("fire",), from_s=1000, to_s=1010)]


def rules_of(**fields: object) -> RuleSet:
    return make_rules(RulesFile.model_validate({"rules": [{**RULE, **fields}]}))


def caption(time_s: float, sure: float, text: str = "a fire") -> Caption:
    stamp = FrameStamp("cam", int(time_s), START + timedelta(seconds=time_s), 0, time_s)
    concepts = {"fire": Concept(sure)}
    return Caption(stamp, text, 0.0, (Word("a", 1.0), Word("fire", sure)), concepts=concepts)


STREAM = [caption(0, 0.3), caption(500, 0.5), caption(1005, 0.8), caption(3600, 0.9)]


@pytest.mark.parametrize("key", ["min_probability", "or_concepts.fire", "either_concepts.fire"])
def test_the_curve_falls_and_the_wanted_rate_is_kept(key: str) -> None:
    words = [replace(c, text="a room", words=()) for c in STREAM] if "concept" in key else STREAM
    points = calibrate(words, LABELS, rules_of(), "fire", Threshold(key))
    assert [round(point.value, 2) for point in points] == [0.3, 0.5, 0.8, 0.9]
    rates = [point.false_per_hour for point in points]
    assert rates == sorted(rates, reverse=True)
    assert [point.recall for point in points] == [1.0, 1.0, 1.0, 0.0]
    best = chosen(points, 1.2)
    assert best is not None
    assert (best.value, best.recall) == (0.8, 1.0)
    assert chosen(points, 0.0) is None


def test_either_holds_said_and_unsaid_to_the_same_evidence() -> None:
    spec = Threshold("either_concepts.fire").set_in(rules_of().rules[0].spec, 0.7)
    assert spec.evidence.concepts == spec.evidence.or_concepts == {"fire": 0.7}


def test_evidence_that_decides_where_it_is_known_can_be_calibrated() -> None:
    rules = rules_of(where_known={"concepts": {"fire": 0.1, "smoke": 0.0}})
    both = [replace(c, concepts={**c.concepts, "smoke": Concept(1.0)}, text="") for c in STREAM]
    points = calibrate(both, LABELS, rules, "fire", Threshold("where_known.fire"))
    assert [point.recall for point in points] == [1.0, 1.0, 1.0, 0.0]
    spec = Threshold("where_known.fire").set_in(rules.rules[0].spec, 0.7)
    assert spec.where_known is not None
    assert spec.where_known.concepts == {"fire": 0.7, "smoke": 0.0}


def test_thresholds_are_tried_where_the_events_are() -> None:
    quiet = [caption(second, second / 1e5, "a room") for second in range(990)]
    event = [caption(1000 + n, 0.5 + n / 100, "a room") for n in range(10)]
    points = calibrate(
        quiet + event, LABELS, rules_of(), "fire", Threshold("or_concepts.fire"), steps=5
    )
    assert sum(point.value >= 0.5 for point in points) == 5


def test_what_cannot_be_measured_is_said() -> None:
    one = Threshold("min_probability")
    with pytest.raises(ValueError, match=r"no rule 'flood'.*there are: fire"):
        calibrate(STREAM, LABELS, rules_of(), "flood", one)
    with pytest.raises(ValueError, match="no label has a tag"):
        calibrate(STREAM, LABELS, rules_of(tags=["smoke"]), "fire", one)
    with pytest.raises(ValueError, match="no caption has"):
        calibrate(STREAM, LABELS, rules_of(), "fire", Threshold("probes.a house burns"))
    with pytest.raises(ValueError, match="of camera 'can', and no caption is; there are cam"):
        other = Label(camera="can", tags=("fire",), from_s=1, to_s=2)
        calibrate(STREAM, [other], rules_of(), "fire", one)
    with pytest.raises(ValueError, match="no threshold 'min'"):
        Threshold("min")


def test_a_bad_label_says_where(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"camera": "a", "tags": ["fire"], "from_s": 1}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"labels.jsonl:1: not a label: needs 'from_s'"):
        read_labels(path)


@pytest.mark.parametrize("key", ["from_time", "to_time"])
def test_a_label_with_a_time_in_no_zone_is_refused(tmp_path: Path, key: str) -> None:
    times = {"from_time": "2026-01-05T12:00:00Z", "to_time": "2026-01-05T12:01:00+01:00"}
    line = {"camera": "a", "tags": ["fire"], **times}
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(line), encoding="utf-8")
    assert len(read_labels(path)) == 1
    path.write_text(json.dumps({**line, key: "2026-01-05T12:00:00"}), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"labels.jsonl:1: .*'{key}' needs an offset: end it"):
        read_labels(path)


def test_the_timelines_of_the_alert_benchmark_label_themselves() -> None:
    street = Footage(Path("a"), "clip", "s", "x")
    smoking = Footage(Path("b"), "clip", "s", "x", frozenset({"smoke"}))
    segments = (Segment(street, 6.0), Segment(smoking, 10.0, "fire"), Segment(street, 6.0))
    (line,) = labels([Timeline("fire-1", segments)])
    label = Label.model_validate(line)
    assert (label.tags, label.from_s, label.to_s) == (("fire", "smoke"), 6.0, 16.0)


def test_the_command_prints_the_choice_and_draws_it(tmp_path: Path) -> None:
    captions, labels, rules = (tmp_path / n for n in ("c.jsonl", "l.jsonl", "r.yaml"))
    captions.write_text("".join(to_json_line(caption_line(c)) for c in STREAM), encoding="utf-8")
    labels.write_text(LABELS[0].model_dump_json() + "\n", encoding="utf-8")
    rules.write_text(json.dumps({"rules": [RULE]}), encoding="utf-8")
    given = ["calibrate", "--captions", str(captions), "--labels", str(labels), "--rule", "fire"]
    given += ["--rules", str(rules), "--false-per-hour", "1.2"]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    assert "min_probability: 0.8" in done.output
    found = json.loads(CliRunner().invoke(app, [*given, "--json"]).output)
    assert found["chosen"]["value"] == 0.8
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curve.png"
    CliRunner().invoke(app, [*given, "--plot", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_test_against_prints_what_changes(tmp_path: Path) -> None:
    captions, old, new = (tmp_path / n for n in ("c.jsonl", "old.yaml", "new.yaml"))
    captions.write_text("".join(to_json_line(caption_line(c)) for c in STREAM), encoding="utf-8")
    old.write_text(json.dumps({"rules": [RULE]}), encoding="utf-8")
    new.write_text(json.dumps({"rules": [{**RULE, "min_probability": 0.6}]}), encoding="utf-8")
    given = ["test", "--captions", str(captions), "--rules", str(new), "--against", str(old)]
    done = CliRunner().invoke(app, given)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["change"] for line in lines] == ["removed", "removed"]
    assert "2 removed, 0 added, 0 moved, 2 as before" in done.stderr


def test_test_knows_the_groups_of_a_configuration_and_says_what_it_cannot_know(
    tmp_path: Path,
) -> None:
    captions, rules, site = (tmp_path / n for n in ("c.jsonl", "r.yaml", "site.yaml"))
    captions.write_text("".join(to_json_line(caption_line(c)) for c in STREAM), encoding="utf-8")
    camera = STREAM[0].stamp.camera
    corners = [[0, 0], [1, 0], [1, 1]]
    rule = {**RULE, "cameras": ["group:outdoors"], "zones": ["yard"]}
    rules.write_text(
        json.dumps({"rules": [rule], "zones": {"yard": {"polygon": corners}}}), encoding="utf-8"
    )
    site.write_text(
        json.dumps(
            {
                "cameras": {camera: {"source": "rtsp://h/x", "groups": ["outdoors"]}},
                "rules": {"file": str(rules)},
            }
        ),
        encoding="utf-8",
    )
    given = ["test", "--captions", str(captions)]
    without = CliRunner().invoke(app, [*given, "--rules", str(rules)])
    assert (without.exit_code, without.stdout) == (0, "")
    done = CliRunner().invoke(app, [*given, "--config", str(site)])
    assert {json.loads(line)["data"]["camera"] for line in done.stdout.splitlines()} == {camera}
    assert f"zones of {RULE['name']}" in done.stderr
