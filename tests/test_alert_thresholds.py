"""Thresholds of the shipped rules: chosen on evidence of scenes that the read-out has not seen."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import torch
import yaml

from benchmarks.alert_thresholds import choose, written
from models.training.readout import ReadoutTable, fit_without_folds, fold_of
from models.training.sources import Sample
from pipeline.messages import Caption, Concept, FrameStamp
from pipeline.rules import load_rules
from pipeline.rules.calibration import Label
from pipeline.rules.schema import RulesFile

RULES = Path(__file__).parent.parent / "configs" / "rules.yaml"
START = datetime(2026, 1, 5, 12, tzinfo=timezone.utc)
LABELS = [Label(camera="cam", tags=("fight",), from_s=600, to_s=610)]


def captions(event: float, flicker: float, quiet: float) -> Iterator[Caption]:
    """Twelve quiet minutes with an event after ten; now and then two captions flicker."""
    for second in range(720):
        probability = quiet
        if 600 <= second < 610:
            probability = event
        elif second % 100 < 2:
            probability = flicker
        stamp = FrameStamp("cam", second, START + timedelta(seconds=second), 0, float(second))
        yield Caption(stamp, "a scene", -1.0, concepts={"fight": Concept(probability)})


def test_the_middle_between_the_event_and_what_must_be_quiet_is_chosen() -> None:
    found = choose(list(captions(0.8, 0.2, 0.01)), LABELS, load_rules(RULES), "fight", 0.0)
    assert found is not None
    assert (found.point.recall, found.point.false) == (1.0, 0)
    assert 0.01 < found.point.value < 0.8


def test_what_flickers_as_high_as_the_event_is_told_from_it_by_confirmation() -> None:
    found = choose(list(captions(0.8, 0.9, 0.01)), LABELS, load_rules(RULES), "fight", 0.0)
    assert found is not None
    assert (found.point.recall, found.point.false) == (1.0, 0)
    assert found.confirm.matches > 2


def test_nothing_is_chosen_where_the_rate_cannot_be_kept() -> None:
    turned = list(captions(0.1, 0.9, 0.9))
    assert choose(turned, LABELS, load_rules(RULES), "fight", 0.0) is None


def test_a_choice_is_written_into_its_rule_and_nowhere_else() -> None:
    found = choose(list(captions(0.8, 0.2, 0.01)), LABELS, load_rules(RULES), "fight", 0.0)
    assert found is not None
    text = RULES.read_text(encoding="utf-8")
    changed = written(text, found)
    assert written(changed, found) == changed
    before, after = (
        {rule.name: rule for rule in RulesFile.model_validate(yaml.safe_load(t)).rules}
        for t in (text, changed)
    )
    assert after["fight"].confirm == found.confirm
    value = pytest.approx(found.point.value, rel=0.01)
    assert after["fight"].evidence.concepts == {"fight": value}
    assert after["fight"].evidence.or_concepts == {"fight": value}
    assert after["fight"].keywords == before["fight"].keywords
    assert {name for name in before if before[name] != after[name]} <= {"fight"}
    with pytest.raises(ValueError, match="no rule 'fight'"):
        written(text.replace("name: fight", "name: flood"), found)


def test_the_readout_of_a_fold_knows_nothing_of_its_scenes() -> None:
    samples = [
        Sample(f"s/images/{n}", "cctv", "train", f"scene{n}", ("x",), ("fire",) if n % 2 else ())
        for n in range(24)
    ]
    noise = torch.Generator().manual_seed(1)
    maps = {s.key: torch.randn(1, 4, 8, generator=noise) + len(s.hazards or ()) for s in samples}
    changed = {s.key: maps[s.key] + (100.0 if fold_of(s.scene, 3) == 0 else 0.0) for s in samples}
    one, other = (
        fit_without_folds(ReadoutTable.of((s, seen[s.key]) for s in samples), 3)
        for seen in (maps, changed)
    )
    torch.testing.assert_close(one[0].state_dict(), other[0].state_dict())
    assert not torch.equal(one[1].strongest, other[1].strongest)
