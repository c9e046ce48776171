"""Scores of captions and hazard words on cases worked out by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.captioner import Hypothesis
from models.evaluation.command import Observation, evaluate
from models.evaluation.data import named_split, read_data
from models.evaluation.evidence import EvidenceCase, calibration_error, score_evidence
from models.evaluation.hazards import HazardCase, names_hazard, score_hazards
from models.evaluation.people import Naming, people_report, score_references
from models.training.sources import DataError, Sample

SAID = ("a fire", "a crash", "a fire after a crash", "a man", "a fire truck")


def case(caption: str, *hazards: str, scene: str = "s") -> HazardCase:
    return HazardCase(caption, frozenset(hazards), scene, "camera")


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("A house is on FIRE.", True),
        ("flames rise from a roof", True),
        ("a fire truck drives by", False),
        ("a red fire hydrant", False),
        ("a fire truck beside a fire", True),
        ("a firefighter stands", False),
        ("people walk", False),
    ],
)
def test_fire_words_and_what_only_sounds_like_them(caption: str, named: bool):
    assert names_hazard(caption, "fire") is named


def test_hits_and_false_words_are_counted_by_hazard():
    scores = score_hazards(
        [
            case("a fire burns", "fire"),
            case("a man walks", "fire", scene="t"),
            case("a fire burns"),
            case("a dog"),
            case("a fire burns", "fire_not_visible"),
        ]
    )
    fire = scores["fire"]
    assert (fire.visible, fire.named, fire.absent, fire.false_words) == (2, 1, 2, 1)
    assert (fire.recall, fire.precision, fire.false_rate) == (0.5, 0.5, 0.5)
    assert fire.recall_interval == (0.0, 1.0)
    assert scores["crash"].recall is None
    assert scores["crash"].precision is None


def test_the_interval_is_by_scene_not_by_picture():
    one_scene = [case("a fire", "fire", scene="a")] * 50 + [case("a man", "fire", scene="b")] * 50
    many = [case("a fire", "fire", scene=str(i)) for i in range(50)]
    many += [case("a man", "fire", scene=str(-i - 1)) for i in range(50)]
    assert score_hazards(one_scene)["fire"].recall_interval == (0.0, 1.0)
    low, high = score_hazards(many)["fire"].recall_interval
    assert 0.35 < low < 0.5 < high < 0.65


def test_people_are_judged_by_the_labels_and_by_one_another():
    cases = [
        case("a fire burns", "fire"),
        case("a man walks", "fire"),
        case("a fire burns"),
        case("a dog"),
    ]
    references = [
        ("a fire", "flames", "a house"),
        ("a man", "a fire", "a man by a fire"),
        ("a dog", "a fire", "a dog"),
        ("a dog", "a dog", "a cat", "a fire"),  # the fourth has no place: others lack it
    ]
    first, second, third = score_references(cases, references)["fire"]
    assert [one.by_labels for one in (first, second, third)] == [
        Naming(visible=2, named=1, false_words=0),
        Naming(visible=2, named=2, false_words=1),
        Naming(visible=2, named=1, false_words=0),
    ]
    # The rest of the first: "flames", "fire", "fire", and the fourth text of the last.
    assert first.by_the_rest == Naming(visible=4, named=1, false_words=0)
    assert first.caption_by_the_rest == Naming(visible=4, named=2, false_words=0)
    assert second.by_the_rest == Naming(visible=3, named=2, false_words=1)
    assert (second.by_labels.recall, second.by_labels.precision) == (1.0, 2 / 3)
    report = people_report(cases, references)
    assert report["caption"] == {
        "visible": 2, "named": 1, "false_words": 1, "recall": 0.5, "precision": 0.5,
    }  # fmt: skip
    assert report["all"][0]["by_the_rest"]["visible"] == 4
    assert report["hazards"]["crash"][0]["by_labels"]["recall"] is None


@given(st.lists(st.lists(st.sampled_from(SAID), min_size=3, max_size=3), min_size=1, max_size=6))
def test_whoever_says_what_we_say_is_as_good_as_we_are(references: list[list[str]]):
    """Our captions are the second references: both are judged alike, whatever is said."""
    labels = [("fire", "crash")[: len(texts[0]) % 3] for texts in references]
    cases = [case(texts[1], *found) for texts, found in zip(references, labels, strict=True)]
    ours = score_hazards(cases)
    for hazard, places in score_references(cases, references).items():
        assert places[1].by_labels == Naming.of(ours[hazard])
        assert places[1].by_the_rest == places[1].caption_by_the_rest


def test_a_perfect_caption_scores_one():
    captions = pytest.importorskip("models.evaluation.captions", reason="needs the train extra")
    given = {"a": "A man is riding a horse.", "b": "two dogs run over the green grass"}
    scores = captions.score_captions(given, {key: [text] for key, text in given.items()})
    assert scores["bleu_4"] == pytest.approx(1, abs=1e-6)
    assert scores["rouge_l"] == pytest.approx(1)
    assert scores["cider"] == pytest.approx(10, rel=1e-6)
    spared = captions.score_captions(given, {key: [text] for key, text in given.items()}, False)
    assert spared == {**scores, "meteor": None}
    with pytest.raises(ValueError, match="same pictures"):
        captions.score_captions(given, {"a": ["x"]})


def test_a_meteor_that_cannot_run_is_left_out_and_lets_go(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Its Java program ends at once where its folder's path holds a space."""
    captions = pytest.importorskip("models.evaluation.captions", reason="needs the train extra")
    if shutil.which("java") is None:
        pytest.skip("METEOR needs Java")
    made = []

    class Ended(captions.Meteor):
        def __init__(self) -> None:
            super().__init__()
            self.meteor_p.kill()
            self.meteor_p.wait()
            made.append(self)

    monkeypatch.setattr(captions, "Meteor", Ended)
    assert captions.score_captions({"a": "a horse"}, {"a": ["a horse"]})["meteor"] is None
    assert "METEOR is left out" in caplog.text
    assert made[0].lock.acquire(blocking=False)
    made[0].lock.release()


def evidence(probability: float, *hazards: str, scene: str, source: str = "one") -> EvidenceCase:
    return EvidenceCase({"fight": probability}, frozenset(hazards), scene, source)


def test_the_auc_compares_within_a_source_only():
    cases = [
        evidence(0.9, "fight", scene="a"),
        evidence(0.4, "fight", scene="b"),
        evidence(0.5, scene="c"),
        evidence(0.1, scene="d"),
        # Another source where everything is low: across sources the AUC would be worse.
        evidence(0.05, "fight", scene="e", source="two"),
        evidence(0.01, scene="f", source="two"),
        evidence(0.95, "fight_not_visible", scene="g"),
    ]
    found = score_evidence(cases, ["fight"])["fight"]
    assert found.auc == pytest.approx(4 / 5)
    assert found.auc_by_source == {"one": 0.75, "two": 1.0}
    assert (found.visible, found.absent) == (3, 3)


def test_ties_are_half_right_and_one_kind_alone_has_no_auc():
    same = [evidence(0.3, "fight", scene="a"), evidence(0.3, scene="b")]
    assert score_evidence(same, ["fight"])["fight"].auc == 0.5
    assert score_evidence(same[:1], ["fight"])["fight"].auc is None


def test_calibration_error_is_the_gap_between_claim_and_truth():
    assert calibration_error([0.75] * 4, [True, True, True, False]) == pytest.approx(0)
    assert calibration_error([0.95] * 4, [False] * 4) == pytest.approx(0.95)
    assert calibration_error([0.05, 0.95], [True, True]) == pytest.approx(0.5)


def test_variety_counts_what_is_new_and_what_differs():
    captions = pytest.importorskip("models.evaluation.captions", reason="needs the train extra")
    said = {"a": "a dog runs", "b": "A dog runs.", "c": "a man sits", "d": "a dog sits"}
    variety = captions.score_variety(said, ["a man sits"])
    assert variety["novel"] == 0.75
    assert variety["distinct"] == 0.75
    assert variety["words"] == 5
    assert captions.score_variety(said, [])["novel"] is None


def test_drawn_captions_are_scored_by_picture():
    captions = pytest.importorskip("models.evaluation.captions", reason="needs the train extra")
    references = {"a": ["a man is riding a horse"], "b": ["two dogs run over the green grass"]}
    drawn = {
        "a": ["A man is riding a horse.", "snow falls on some old town"],
        "b": ["two dogs run over the green grass"],
    }
    scores = captions.score_drawn(drawn, references)
    assert scores["captions"] == 1.5
    assert scores["best_cider"] == pytest.approx(10, rel=1e-6)
    assert scores["cider"] == pytest.approx(7.5, rel=1e-6)
    assert scores["distinct_bigrams"] == 1
    again = captions.score_drawn({**drawn, "b": [*drawn["b"], "two dogs run"]}, references)
    assert again["distinct_bigrams"] == pytest.approx((1 + 6 / 8) / 2)


def test_without_labels_the_references_say_which_hazard_words_are_false():
    said = {
        "a fire in the woods": "people sit by a bonfire",  # the reference names it too
        "a dog runs": "a dog lies in the grass",  # nothing is said
        "a fire burns": "smoke rises from a car",  # another hazard is there
        "a man holds a gun": "a man holds an umbrella",
        "smoke and fire": "a burning house in thick smoke",
    }
    samples = [
        Sample(f"set/images/{n}", "set", "test", str(n), (reference,))
        for n, reference in enumerate(said.values())
    ]
    seen = [
        Observation(sample.key, Hypothesis(text, -1.0, ()), {})
        for sample, text in zip(samples, said, strict=True)
    ]
    report = evaluate(samples, iter(seen), meteor=False).report
    assert report["hazard_word_rate"] == 4 / 5
    assert report["false_hazard_word_rate"] == 2 / 5


def test_what_nobody_labelled_is_in_no_figure_of_hazards():
    told = {"fire": ("fire",), "quiet": (), "unknown": None}
    samples = [Sample(k, "yard", "val", k, ("a fire burns",), h) for k, h in told.items()]
    says = {"fire": "a fire burns", "quiet": "a yard", "unknown": "a fire burns"}
    observations = iter(
        Observation(key, Hypothesis(text, -1.0, ()), {"fire": 0.9 if "fire" in text else 0.1})
        for key, text in says.items()
    )
    report = evaluate(samples, observations, meteor=False).report
    assert report["labelled"] == 2
    assert report["hazards"]["fire"]["precision"] == 1.0
    assert report["hazards"]["fire"]["evidence"]["absent"] == 1
    assert report["false_on_normal"] == 0.0


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"image": "a.png", "captions": "a man"}], "captions must be a list"),
        ([{"image": "a.png", "captions": ["x"], "hazard": ["fires"]}], "did you mean 'fire'"),
        ([{"image": "a.png", "captions": ["x"]}] * 2, "listed more than once"),
        ([{"image": "a.png", "captions": ["x"], "hazzard": []}], "did you mean 'hazard'"),
    ],
)
def test_a_file_of_pictures_is_checked_as_training_data_are(
    tmp_path: Path, lines: list[dict], message: str
):
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=message):
        read_data(str(file), tmp_path, None, clips=False)


def test_a_set_with_a_hyphen_is_not_taken_for_the_split_of_another():
    assert named_split("north-gate") == ("north-gate", None)
    assert named_split("flickr8k-test") == ("flickr8k", "test")
