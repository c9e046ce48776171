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
AGREEMENT = ConceptAgreement(LEXICON, VOCABULARY)
PLAIN = Decoding(concept_agreement=0.0)
TOKENS = st.lists(st.integers(3, len(WORDS) - 1), max_size=8).map(tuple)
PROBABILITIES = st.lists(
    st.floats(0, 1, width=32), min_size=len(CONCEPTS), max_size=len(CONCEPTS)
).map(lambda values: np.array(values, np.float32))


def hypothesis(tokens: tuple[int, ...], score: float, finished: bool) -> Hypothesis:
    return Hypothesis(tokens, 2 * score, (), score, finished)


HYPOTHESES = st.lists(st.builds(hypothesis, TOKENS, st.floats(-50, 0), st.booleans()), max_size=6)


@given(TOKENS, PROBABILITIES)
def test_agreement_is_the_dice_coefficient_of_its_definition(
    tokens: tuple[int, ...], probabilities: np.ndarray
) -> None:
    words = {WORDS[token] for token in tokens}
    named = [bool(words & set(of)) for of in LEXICON.words]
    both = either = 0.0
    entries = zip(LEXICON.words, LEXICON.shares, probabilities, named, strict=True)
    for of, share, probability, is_named in entries:
        tells = -math.log(share) if of else 0.0
        both += tells * probability * is_named
        either += tells * (probability + is_named)
    agreement = AGREEMENT(tokens, probabilities)
    assert agreement == pytest.approx(2 * both / either if either else 0.0, abs=1e-6)
    assert 0 <= agreement <= 1 + 1e-6


@given(TOKENS)
def test_a_caption_that_names_all_there_is_agrees_fully_and_any_other_less(
    tokens: tuple[int, ...],
) -> None:
    words = VOCABULARY.decode(tokens).split()
    there = np.array([bool(set(words) & set(of)) for of in LEXICON.words], np.float32)
    if not there.any():
        assert AGREEMENT(tokens, there) == 0
        return
    assert AGREEMENT(tokens, there) == pytest.approx(1)
    for concept, of in enumerate(LEXICON.words):
        if of:
            other = there.copy()
            other[concept] = 1 - other[concept]
            assert AGREEMENT(tokens, other) < 1 - 1e-3


@given(HYPOTHESES, PROBABILITIES, st.floats(0, 100))
def test_it_only_orders_and_the_finished_stay_first(
    paths: list[Hypothesis], probabilities: np.ndarray, weight: float
) -> None:
    ordered = AGREEMENT.order(paths, probabilities, weight)
    assert sorted(map(id, ordered)) == sorted(map(id, paths))
    finished = [path.finished for path in ordered]
    assert finished == sorted(finished, reverse=True)
    for one, other in pairwise(ordered):
        gain, less = (p.score + weight * AGREEMENT(p.tokens, probabilities) for p in (one, other))
        assert one.finished != other.finished or gain >= less


@given(HYPOTHESES, PROBABILITIES)
def test_without_weight_the_order_is_the_search_s(
    paths: list[Hypothesis], probabilities: np.ndarray
) -> None:
    plain = sorted(paths, key=lambda path: (not path.finished, -path.score))
    assert [id(p) for p in AGREEMENT.order(plain, probabilities, 0.0)] == [id(p) for p in plain]


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
    return Captioner(
        bare.encoder, bare.decoder, VOCABULARY, 64, CONCEPTS, concept_lexicon=LEXICON
    ).eval()


DECODINGS = {
    "default": Decoding(),
    "only agreement": Decoding(concept_agreement=1e6),
    "forced": Decoding(forced_words=("dog",)),
    "diverse": Decoding(diverse_groups=2),
}


@pytest.mark.parametrize("choice", DECODINGS)
def test_a_batch_is_told_as_its_clips_one_by_one(captioner: Captioner, choice: str) -> None:
    told_one_by_one(captioner, clips(), DECODINGS[choice])


@pytest.mark.parametrize("choice", DECODINGS)
def test_what_is_chosen_is_among_what_was_found_as_probable_as_it_was(
    captioner: Captioner, choice: str
) -> None:
    plain = replace(DECODINGS[choice], concept_agreement=0.0)
    moved = 0
    for one, other in zip(
        captioner.caption(clips(), 4, decoding=DECODINGS[choice]),
        captioner.caption(clips(), 4, decoding=plain),
        strict=True,
    ):
        chosen, found = (
            {h.text: h.log_probability, **{a.text: a.log_probability for a in h.alternatives}}
            for h in (one, other)
        )
        assert chosen == found
        moved += one.text != other.text
    if choice == "only agreement":
        assert moved


def test_the_choice_agrees_best(captioner: Captioner) -> None:
    concepts = captioner.prepare(captioner.windows(clips())).memory.concepts.numpy()
    found = captioner.caption(clips(), 4, decoding=DECODINGS["only agreement"])
    for hypothesis, row in zip(found, concepts, strict=True):
        own, *others = (
            AGREEMENT(VOCABULARY.encode(text), row)
            for text in (hypothesis.text, *(a.text for a in hypothesis.alternatives))
        )
        assert own >= max(others) - 1e-6


def test_without_a_lexicon_and_without_weight_captions_are_the_search_s(
    captioner: Captioner,
) -> None:
    bare = Captioner(captioner.encoder, captioner.decoder, VOCABULARY, 64, CONCEPTS).eval()
    assert bare.caption(clips(), 4) == captioner.caption(clips(), 4, decoding=PLAIN)
    for drawn in (Decoding(top_p=0.9), Decoding(consensus="hypotheses")):
        assert bare.caption(clips(), 4, decoding=drawn) == captioner.caption(
            clips(), 4, decoding=drawn
        )


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="concept_agreement"):
        Decoding(concept_agreement=weight)


# In a checkpoint


def test_the_lexicon_survives_the_checkpoint_and_may_be_missing(
    captioner: Captioner, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, captioner)
    loaded = load_checkpoint(tmp_path, "c", torch.device("cpu"))
    assert loaded.concept_lexicon == LEXICON
    chosen = loaded.caption(clips(), 4)
    (tmp_path / "concept_lexicon.txt").unlink()
    without = load_checkpoint(tmp_path, "c", torch.device("cpu"))
    assert without.concept_lexicon is None
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
    assert shipped.concept_lexicon is not None
    words = [word for of in shipped.concept_lexicon.words for word in of]
    assert all(word in shipped.vocabulary for word in words)
    rebuilt = concept_lexicon([], shipped.concept_words, shipped.vocabulary)
    assert shipped.concept_lexicon.words == rebuilt.words
    named = sum(bool(of) for of in shipped.concept_lexicon.words)
    assert named > 0.95 * len(shipped.concept_words)
