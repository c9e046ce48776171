"""Words, lemmas, patterns, negation: what a keyword finds in a text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rules.lexicon import Lexicon, LexiconFile, shipped_lexicon
from pipeline.rules.matcher import TextMatcher
from pipeline.rules.patterns import PatternError, compile_pattern
from pipeline.rules.schema import RuleSpec
from pipeline.rules.tokens import lemma_of, tokenise

LEXICON = Lexicon.of([shipped_lexicon()])


def finds(keyword: str, text: str, **fields: object) -> bool:
    rule = RuleSpec.model_validate({"name": "x", "keywords": [keyword], **fields})
    return bool(TextMatcher(rule, LEXICON).match(text).hits)


@pytest.mark.parametrize(
    ("form", "lemma"),
    [
        ("fighting", "fight"), ("fought", "fight"), ("fights", "fight"), ("lying", "lie"),
        ("knives", "knife"), ("people", "person"), ("burning", "burn"), ("beating", "beat"),
        ("smoking", "smoke"), ("hitting", "hit"), ("thieves", "thief"), ("stole", "steal"),
    ],
)  # fmt: skip
def test_lemmas(form: str, lemma: str) -> None:
    assert lemma_of(form) == lemma


@pytest.mark.parametrize(
    ("keyword", "text", "expected"),
    [
        ("vehicle", "a red pickup truck", True),
        ("car", "a red truck", False),
        ("knife", "a man with a machete", True),
        ("=lying", "a man lies", False),
        ("=lying", "a man lying there", True),
        ("hit|strike", "the car struck him", True),
        ("car ... hit", "the car suddenly hit", True),
        ("car ...2 hit", "the car in the lane hit", False),
        ("car ... hit", "the car stopped. He hit", False),
        ("knife NEAR person", "next to the man is a knife", True),
        ("knife NEAR/1 person", "the knife on the big table by a man", False),
        ("3+ person", "four young men stand", True),
        ("3+ person", "several people", True),
        ("3+ person", "two people", False),
        ("3+ person", "more than two people", True),
        ("3+ person", "less than three people", False),
        ("3+ person", "at most three people", False),
        ("3+ person", "two or three people", False),
        ("3+ person", "three or four people", True),
        ("100+ person", "1,000 people", True),
        ("man * dog", "a man walks dog", True),
        ("fire", "No fire can be seen", False),
        ("weapon", "a man without a weapon", False),
        ("fight", "they pretend to fight", False),
        ("gun", "a fake gun", False),
        ("fire", "no people, a fire", True),
        ("fight", "they don't fight", False),
    ],
)
def test_patterns(keyword: str, text: str, expected: bool) -> None:
    assert finds(keyword, text) is expected


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("hold ... gun", "a man holds no gun"),
        ("hold ... gun", "a child is holding a toy gun"),
        ("hold ... gun", "a man is holding a phone instead of a gun"),
        ("knife NEAR person", "a man without a knife"),
        ("knife NEAR person", "a man has no visible knife in his hand"),
        ("person ... lie", "a man is not lying on the ground"),
        ("person ... fall", "a man almost falls"),
        ("vehicle NEAR hit", "the car did not hit the boy"),
        ("vehicle NEAR hit", "the car narrowly avoids hitting the boy"),
        ("vehicle ... be hit", "a car isn't hit"),
    ],
)
def test_each_word_of_a_match_may_be_taken_back(keyword: str, text: str) -> None:
    assert not finds(keyword, text)
    assert finds(keyword, text, negation=False)


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("person ... fall", "a man with no shoes falls to the ground"),
        ("person ... fall", "a boy with a toy falls to the ground"),
        ("fight", "a man with no shirt is fighting"),
        ("fight", "two men without shirts are fighting"),
        ("hold ... gun", "a man holds a gun and no knife"),
        ("person ... gun", "a man with no gun holds a gun"),
        ("person ... no helmet", "a man rides with no helmet"),
        ("without helmet", "a man rides without helmet"),
    ],
)
def test_what_a_negation_is_not_about_stays(keyword: str, text: str) -> None:
    assert finds(keyword, text)


def test_exclusion_takes_back_only_the_words_it_covers() -> None:
    assert not finds("fire", "a fire truck", exclude=["fire truck"])
    assert finds("fire", "a fire truck near a fire", exclude=["fire truck"])
    assert not finds("fire", "a fire by the stove", none=["stove"])


def test_all_asks_for_every_group_and_regex_is_case_blind() -> None:
    assert finds("knife", "a man with a knife", all=[["person"]])
    assert not finds("knife", "a knife", all=[["person"]])
    assert finds("zzz", "Plate AB-123", regex=[r"[a-z]{2}-\d{3}"])
    assert finds("zzz", "no fire on the left, a fire on the right", regex=["fi[r]e"])


def test_exclusions_and_negation_hold_for_expressions_and_vetoes_too() -> None:
    assert not finds("zzz", "there is no fire here", regex=["fi[r]e"])
    assert not finds("zzz", "a fire truck", regex=["fi[r]e"], exclude=["fire truck"])
    assert finds("bag", "a bag and no people", none=["person"])
    assert not finds("bag", "a bag and two people", none=["person"])


def test_words_of_another_language_stand_for_what_a_lexicon_says() -> None:
    lexicon = Lexicon.of([shipped_lexicon(), LexiconFile(covers={"Brände": ("fire", "smoke")})])
    rule = RuleSpec.model_validate({"name": "x", "keywords": ["Brände"]})
    assert TextMatcher(rule, lexicon).match("flames on the roof").hits


def test_hostile_expression_is_quick_by_construction() -> None:
    assert not finds("zzz", "a" * 5000 + "!", regex=["(a+)+$"])


def test_lexicons_add_up_and_cycles_end() -> None:
    extra = LexiconFile(synonyms=(("a", "b"), ("b", "c")), covers={"vehicle": ("forklift",)})
    lexicon = Lexicon.of([shipped_lexicon(), extra])
    assert set(lexicon.expand("a")) == {"a", "b", "c"}
    assert "forklift" in lexicon.expand("vehicle")


@pytest.mark.parametrize("text", ["", "a|", "x NEAR y NEAR z", "a ...99 b", "... a", "3+", "(a)"])
def test_bad_keywords_are_refused(text: str) -> None:
    with pytest.raises(PatternError):
        compile_pattern(text, LEXICON)


def test_of_keywords_on_the_same_words_the_first_is_named() -> None:
    for keywords in (["shot", "shoot"], ["shoot", "shot"]):
        rule = RuleSpec.model_validate({"name": "x", "keywords": keywords})
        (hit,) = TextMatcher(rule, LEXICON).match("a man shot him").hits
        assert hit.keyword == keywords[0]


@given(st.text(max_size=60))
def test_tokens_lie_where_they_say(text: str) -> None:
    for token in tokenise(text):
        form = text[token.start : token.end].lower().replace("’", "'").removesuffix("'s")
        assert form == token.form
