"""Captions chosen by what they name: the measure, the order, and through captioner and files."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_captioner import tiny_captioner, told_one_by_one

from models import CheckpointError, Decoding
from models.captioner import Captioner
from models.checkpoint import load_checkpoint, save_checkpoint
from models.concept_agreement import ConceptAgreement, ConceptLexicon
from models.concept_vocabulary import ConceptVocabulary
from models.grounding import Thresholds
from models.hazard_words import names_hazard
from models.preference import BY_SCORE, CaptionChooser, Preference
from models.registry import load_captioner
from models.search import Hypothesis
from models.training.concepts import concept_lexicon
from models.training.sources import Sample
from models.vocabulary import Vocabulary

WORDS = ("<pad>", "<begin>", "<end>", "<unknown>", "a", "man", "men", "dog", "dogs", "fire", "runs")
VOCABULARY = Vocabulary(WORDS)
CONCEPTS = ("fire", "dog", "man", "run", "person_down")
LEXICON = ConceptLexicon(
    (("fire",), ("dog", "dogs"), ("man", "men"), ("runs",), ()), (0.01, 0.2, 0.5, 0.1, 0.001)
)
LEXICON_PARTS = (LEXICON.words, LEXICON.shares)
AGREEMENT = ConceptAgreement(LEXICON, VOCABULARY)
CHOOSER = CaptionChooser(LEXICON, VOCABULARY)
PLAIN = Decoding(preference=BY_SCORE)
TOKENS = st.lists(st.integers(3, len(WORDS) - 1), max_size=8).map(tuple)
PROBABILITIES = st.lists(
    st.floats(0, 1, width=32), min_size=len(CONCEPTS), max_size=len(CONCEPTS)
).map(lambda values: np.array(values, np.float32))


def agreement(tokens: tuple[int, ...], probabilities: np.ndarray) -> float:
    (found,) = AGREEMENT([tokens], probabilities)
    return found


def hypothesis(
    tokens: tuple[int, ...], score: float, finished: bool, words: list[float]
) -> Hypothesis:
    return Hypothesis(tokens, 2 * score, tuple(words), score, finished)


HYPOTHESES = st.lists(
    st.builds(
        hypothesis,
        TOKENS,
        st.floats(-50, 0),
        st.booleans(),
        st.lists(st.floats(-20, 0), max_size=9),
    ),
    max_size=6,
)
WEIGHTS = st.floats(0, 100)
PREFERENCES = st.builds(Preference, WEIGHTS, WEIGHTS, WEIGHTS, WEIGHTS)


@given(TOKENS, PROBABILITIES)
def test_agreement_is_the_mean_of_dice_and_cosine_by_their_definition(
    tokens: tuple[int, ...], probabilities: np.ndarray
) -> None:
    words = {WORDS[token] for token in tokens}
    tells = [-math.log(s) if of else 0.0 for of, s in zip(*LEXICON_PARTS, strict=True)]
    named = [tell * bool(words & set(of)) for of, tell in zip(LEXICON.words, tells, strict=True)]
    there = [tell * float(p) for tell, p in zip(tells, probabilities, strict=True)]
    both = sum(p * (n > 0) for n, p in zip(named, there, strict=True))
    lengths = math.hypot(*named) * math.hypot(*there)
    found = agreement(tokens, probabilities)
    if not lengths:
        assert found == 0
        return
    dice = 2 * both / (sum(named) + sum(there))
    cosine = sum(n * p for n, p in zip(named, there, strict=True)) / lengths
    assert found == pytest.approx((dice + cosine) / 2, rel=1e-5, abs=1e-6)
    assert 0 <= found <= 1 + 1e-6


@given(TOKENS)
def test_a_caption_that_names_all_there_is_agrees_fully_and_any_other_less(
    tokens: tuple[int, ...],
) -> None:
    words = VOCABULARY.decode(tokens).split()
    there = np.array([bool(set(words) & set(of)) for of in LEXICON.words], np.float32)
    if not there.any():
        assert agreement(tokens, there) == 0
        return
    assert agreement(tokens, there) == pytest.approx(1)
    for concept, of in enumerate(LEXICON.words):
        if of:
            other = there.copy()
            other[concept] = 1 - other[concept]
            assert agreement(tokens, other) < 1 - 1e-3


def worth(path: Hypothesis, probabilities: np.ndarray, preference: Preference) -> float:
    """What a caption is worth, word by word from the definition."""
    words = path.tokens
    places = [max(1, words_place - 3) for words_place in words]
    rarity = np.mean(np.log(places)) if words else 0.0
    said_before = sum(word in words[:i] for i, word in enumerate(words))
    return float(
        path.score
        + preference.agreement * agreement(words, probabilities)
        - preference.rarity * rarity
        - preference.repetition * said_before
        + preference.weakest * min([0.0, *path.word_log_probs])
    )


@given(HYPOTHESES, PROBABILITIES, PREFERENCES)
def test_it_only_orders_by_worth_and_the_finished_stay_first(
    paths: list[Hypothesis], probabilities: np.ndarray, preference: Preference
) -> None:
    ordered = CHOOSER.order(paths, probabilities, preference)
    assert sorted(map(id, ordered)) == sorted(map(id, paths))
    finished = [path.finished for path in ordered]
    assert finished == sorted(finished, reverse=True)
    for one, other in pairwise(ordered):
        more, less = (worth(path, probabilities, preference) for path in (one, other))
        assert one.finished != other.finished or more >= less - 1e-3


@given(HYPOTHESES, PROBABILITIES)
def test_without_preference_the_order_is_the_search_s(
    paths: list[Hypothesis], probabilities: np.ndarray
) -> None:
    plain = sorted(paths, key=lambda path: (not path.finished, -path.score))
    assert [id(p) for p in CHOOSER.order(plain, probabilities, BY_SCORE)] == [id(p) for p in plain]


def test_frequent_words_once_each_and_none_improbable_are_preferred() -> None:
    nothing = np.zeros(len(CONCEPTS), np.float32)
    plain = hypothesis((4, 5, 6), -5.0, True, [-1.0] * 4)
    others = {
        "rarity": replace(plain, tokens=(4, 5, 10)),
        "repetition": replace(plain, tokens=(4, 4, 5)),
        "weakest": replace(plain, word_log_probs=(-0.5, -2.0, -0.5, -1.0)),
    }
    for name, other in others.items():
        only = replace(BY_SCORE, **{name: 1.0})
        assert CHOOSER.order([other, plain], nothing, only) == [plain, other]
        assert CHOOSER.order([other, plain], nothing, BY_SCORE) == [other, plain]


@pytest.mark.parametrize(
    ("words", "shares", "message"),
    [
        ((("man",),), (0.5, 0.5), "shares of 2"),
        ((("man",),), (0.0,), "between 0 and 1"),
        ((("man",),), (math.nan,), "between 0 and 1"),
        ((("man",), ("man",)), (0.5, 0.5), "names two"),
    ],
)
def test_a_lexicon_that_contradicts_itself_is_refused(
    words: tuple[tuple[str, ...], ...], shares: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ConceptLexicon(words, shares)


def test_a_lexicon_reads_what_it_writes() -> None:
    assert ConceptLexicon.read(LEXICON.lines()) == LEXICON


def test_words_and_shares_come_from_vocabulary_and_captions() -> None:
    texts = {"a man runs": "one", "two dogs": "two", "a dog running": "three", "a tree": "four"}
    samples = [Sample(f"s/images/{t}", "s", "train", s, (t, "a man")) for t, s in texts.items()]
    clip = Sample("s/clips/c", "s", "train", "five", ("fire", "fire"))
    found = concept_lexicon([*samples, clip], CONCEPTS, VOCABULARY)
    assert found.words == LEXICON.words
    assert found.shares == pytest.approx([0.5 / 5, 2.5 / 5, 4.5 / 5, 2.5 / 5, 0.5 / 5])


# Through the captioner


def clips() -> list[np.ndarray]:
    random = np.random.default_rng(4)
    return [random.integers(0, 256, (frames, 48, 80, 3), np.uint8) for frames in (1, 3, 1, 2)]


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    bare = tiny_captioner(WORDS, 64, seed=12, concepts=CONCEPTS, attention="dot")
    known = ConceptVocabulary(CONCEPTS, LEXICON)
    return Captioner(bare.encoder, bare.decoder, VOCABULARY, 64, known).eval()


AGREEMENT_ALONE = replace(BY_SCORE, agreement=1e6)
DECODINGS = {
    "default": Decoding(),
    "only agreement": Decoding(preference=AGREEMENT_ALONE),
    "forced": Decoding(forced_words=("dog",)),
    "diverse": Decoding(diverse_groups=2),
}


@pytest.mark.parametrize("choice", DECODINGS)
def test_a_batch_is_told_as_its_clips_one_by_one(captioner: Captioner, choice: str) -> None:
    told_one_by_one(captioner, clips(), DECODINGS[choice])


@pytest.mark.parametrize("choice", DECODINGS)
def test_what_is_chosen_is_among_what_was_found_as_probable_as_it_was(
    captioner: Captioner, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools, order = [], CaptionChooser.order

    def watched(
        self: CaptionChooser, paths: list[Hypothesis], row: np.ndarray, preference: Preference
    ) -> list[Hypothesis]:
        pools.append(paths)
        return order(self, paths, row, preference)

    monkeypatch.setattr(CaptionChooser, "order", watched)
    chosen = captioner.caption(clips(), 4, decoding=DECODINGS[choice])
    by_score = captioner.caption(
        clips(), 4, decoding=replace(DECODINGS[choice], preference=BY_SCORE)
    )
    assert len(pools) == len(chosen)  # by score, nothing is ordered
    for one, other, pool in zip(chosen, by_score, pools, strict=True):
        kept, first = (
            [(h.text, h.log_probability), *((a.text, a.log_probability) for a in h.alternatives)]
            for h in (one, other)
        )
        found = [(VOCABULARY.decode(path.tokens), path.log_probability) for path in pool]
        assert set(kept) <= set(found)
        assert len(kept) == min(4, len(found))
        assert [text for text, _ in found[: len(first)]] == [text for text, _ in first]
    assert any(len(pool) > 4 for pool in pools) == (choice != "diverse")
    if choice == "only agreement":
        assert any(one.text != other.text for one, other in zip(chosen, by_score, strict=True))


def test_greedy_search_has_nothing_to_choose(captioner: Captioner) -> None:
    assert captioner.caption(clips(), 1) == captioner.caption(clips(), 1, decoding=PLAIN)


def test_the_choice_agrees_best(captioner: Captioner) -> None:
    concepts = captioner.prepare(captioner.windows(clips())).memory.concepts.numpy()
    found = captioner.caption(clips(), 4, decoding=DECODINGS["only agreement"])
    for hypothesis, row in zip(found, concepts, strict=True):
        own, *others = (
            agreement(tuple(VOCABULARY.encode(text)), row)
            for text in (hypothesis.text, *(a.text for a in hypothesis.alternatives))
        )
        assert own >= max(others) - 1e-6


def test_without_a_lexicon_and_without_preference_captions_are_the_search_s(
    captioner: Captioner,
) -> None:
    known = ConceptVocabulary(CONCEPTS)
    bare = Captioner(captioner.encoder, captioner.decoder, VOCABULARY, 64, known).eval()
    assert bare.caption(clips(), 4) == captioner.caption(clips(), 4, decoding=PLAIN)
    for drawn in (Decoding(top_p=0.9), Decoding(consensus="hypotheses")):
        assert bare.caption(clips(), 4, decoding=drawn) == captioner.caption(
            clips(), 4, decoding=drawn
        )


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["agreement", "rarity", "repetition", "weakest"])
def test_a_weight_that_is_none_is_refused(name: str, weight: float) -> None:
    with pytest.raises(ValueError, match="preference"):
        Preference(**{name: weight})


def test_what_evidence_denies_is_looked_past_in_all_that_was_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pools, order = [], CaptionChooser.order

    def watched(
        self: CaptionChooser, paths: list[Hypothesis], row: np.ndarray, preference: Preference
    ) -> list[Hypothesis]:
        pools.append(order(self, paths, row, preference))
        return pools[-1]

    monkeypatch.setattr(CaptionChooser, "order", watched)
    none = ConceptVocabulary(CONCEPTS, LEXICON, {"fire": Thresholds(deny=1.0, say=2.0)})
    bare = tiny_captioner(WORDS, 64, seed=16, concepts=CONCEPTS, attention="dot")
    denying = Captioner(bare.encoder, bare.decoder, VOCABULARY, 64, none).eval()
    beam_size, windows = 3, clips()
    told = denying.caption(windows, beam_size)
    first, again = pools[: len(windows)], pools[len(windows) :]
    ranks = []
    for hypothesis, pool in zip(told, first, strict=True):
        found = [VOCABULARY.decode(path.tokens) for path in pool]
        fitting = [text for text in found if not names_hazard(text, "fire")]
        assert len(hypothesis.alternatives) < beam_size
        if fitting:
            assert hypothesis.text == fitting[0]
            ranks.append(found.index(fitting[0]))
    assert len(again) == len(windows) - len(ranks)  # only these were searched once more
    assert max(ranks) >= beam_size  # one was beyond the beam


# In a checkpoint


def test_the_lexicon_survives_the_checkpoint_and_may_be_missing(
    captioner: Captioner, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, captioner)
    loaded = load_checkpoint(tmp_path, "c", torch.device("cpu"))
    assert loaded.concepts.lexicon == LEXICON
    chosen = loaded.caption(clips(), 4)
    (tmp_path / "concept_lexicon.txt").unlink()
    without = load_checkpoint(tmp_path, "c", torch.device("cpu"))
    assert without.concepts.lexicon is None
    assert without.caption(clips(), 4) == loaded.caption(clips(), 4, decoding=PLAIN)
    save_checkpoint(tmp_path, loaded)
    assert load_checkpoint(tmp_path, "c", torch.device("cpu")).caption(clips(), 4) == chosen


@pytest.mark.parametrize("lines", ["0.5 man\n", "dog 0.5\n" * 5, "2 man\n" + "0.5\n" * 4, "\n" * 5])
def test_a_lexicon_that_does_not_fit_is_named(
    captioner: Captioner, tmp_path: Path, lines: str
) -> None:
    save_checkpoint(tmp_path, captioner)
    (tmp_path / "concept_lexicon.txt").write_text(lines)
    with pytest.raises(CheckpointError, match="lexicon"):
        load_checkpoint(tmp_path, "c", torch.device("cpu"))


def test_the_shipped_lexicon_fits_its_checkpoint() -> None:
    shipped = load_captioner("default", runtime="eager")
    assert shipped.concepts.lexicon is not None
    words = [word for of in shipped.concepts.lexicon.words for word in of]
    assert all(word in shipped.vocabulary for word in words)
    rebuilt = concept_lexicon([], shipped.concept_words, shipped.vocabulary)
    assert shipped.concepts.lexicon.words == rebuilt.words
    named = sum(bool(of) for of in shipped.concepts.lexicon.words)
    assert named > 0.95 * len(shipped.concept_words)
