"""A caption names a hazard when, and only when, the evidence bears it out."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from models.captioner import Captioner
from models.claims import CLAIMS
from models.colour import names_colour, shows_colour
from models.concept_vocabulary import ConceptVocabulary
from models.decoders import Decoder, DecoderConfig
from models.decoding import Decoding
from models.encoders import build_encoder
from models.grounding import Thresholds, people_thresholds
from models.hazard_words import HAZARD_WORDS, names_hazard, suggests_hazard
from models.people_words import PEOPLE, names_people
from models.preference import BY_SCORE
from models.vocabulary import Vocabulary

WORDS = ["<pad>", "<begin>", "<end>", "<unknown>"]
WORDS += ["a", "man", "dog", "street", "fire", "burning", "fighting", "fight", "lying", "red"]


def captioner(
    thresholds: dict[str, Thresholds],
    loud: str = "",
    concepts: tuple[str, str] = ("fire", "fight"),
) -> Captioner:
    """A captioner of random weights that says ``loud`` rather often, and hazards seldom."""
    torch.manual_seed(6)
    encoder = build_encoder("test_efficientnet")
    config = DecoderConfig(
        len(WORDS), encoder.feature_size, 16, 24, 20, 12, attention="dot", concept_count=2
    )
    decoder = Decoder(config)
    for word in ("fire", "burning", "fighting", "fight"):
        decoder.output.bias.data[WORDS.index(word)] -= 2.0
    if loud:
        decoder.output.bias.data[WORDS.index(loud)] += 6.0
    known = ConceptVocabulary(concepts, thresholds=thresholds)
    return Captioner(encoder, decoder, Vocabulary(WORDS), 64, known).eval()


def pictures(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(count)
    return [random.integers(0, 256, (48, 80, 3), np.uint8) for _ in range(count)]


def silent(hazard: str) -> dict[str, Thresholds]:
    return {hazard: Thresholds(deny=1.0, say=2.0)}  # no evidence is ever enough


def certain(hazard: str) -> dict[str, Thresholds]:
    return {hazard: Thresholds(deny=0.0, say=0.0)}  # any evidence is enough


@pytest.mark.parametrize("beam_size", [1, 3])
def test_strong_evidence_makes_a_silent_caption_speak(beam_size: int):
    clips = pictures(3)
    plain = captioner({}).caption(clips, beam_size=beam_size)
    assert not all(names_hazard(h.text, "fire") for h in plain)
    grounded = captioner(certain("fire")).caption(clips, beam_size=beam_size)
    assert all(names_hazard(h.text, "fire") for h in grounded)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_weak_evidence_keeps_a_loud_caption_from_it(beam_size: int):
    clips = pictures(3)
    plain = captioner({}, loud="fighting").caption(clips, beam_size=beam_size)
    assert any(names_hazard(h.text, "fight") for h in plain)
    grounded = captioner(silent("fight"), loud="fighting").caption(clips, beam_size=beam_size)
    assert not any(names_hazard(h.text, "fight") for h in grounded)


def test_captions_that_agree_with_the_evidence_stay_as_they_are():
    clips = pictures(4)
    plain = captioner({}).caption(clips)
    quiet = {"fire": Thresholds(0.0, 1.1), "fight": Thresholds(0.0, 1.1)}
    for one, other in zip(plain, captioner(quiet).caption(clips), strict=True):
        assert one.text == other.text
        assert one.log_probability == other.log_probability


def test_a_batch_is_grounded_as_its_clips_one_by_one():
    made = captioner(certain("fire"))
    clips = pictures(3)
    for clip, expected in zip(clips, made.caption(clips), strict=True):
        assert made.caption([clip])[0].text == expected.text


def test_grounding_can_be_left_out_and_leaves_other_decoding_alone():
    clips = pictures(2)
    plain = captioner({}).caption(clips)
    made = captioner(certain("fire"))
    ungrounded = made.caption(clips, decoding=Decoding(grounded=False))
    assert [h.text for h in ungrounded] == [h.text for h in plain]
    drawn = [Decoding(top_p=0.9, samples=2)] * 2
    one, other = (
        m.caption(clips, decoding=d) for m, d in zip((made, captioner({})), drawn, strict=True)
    )
    assert [h.text for h in one] == [h.text for h in other]


def test_every_hazard_has_words():
    assert all(
        names_hazard(f"a {word} b", h) for h, words in HAZARD_WORDS.items() for word in words
    )


def test_a_hazard_s_word_is_as_probable_as_its_evidence():
    made, clips = captioner(certain("fire")), pictures(3)
    evidence = made.detect(clips, ["fire"])[:, 0]
    for hypothesis, probability in zip(made.caption(clips), evidence, strict=True):
        words = [word for word in hypothesis.words if word.text in HAZARD_WORDS["fire"]]
        assert words
        assert all(word.probability >= probability - 1e-5 for word in words)


def scores(made: Captioner, clips: list[np.ndarray]) -> list[float]:
    """Log-probability of each caption over the length penalty that the search ranks by."""
    return [
        h.log_probability / ((5 + len(h.words) + h.finished) / 6) ** 0.7
        for h in made.caption(clips, decoding=Decoding(preference=BY_SCORE))
    ]


def test_a_word_is_forced_only_where_the_caption_bears_it():
    clips = pictures(6)
    silent_one = captioner({})
    before = scores(silent_one, clips)
    spoken: list[set[int]] = []
    for cost in (0.0, 0.2, 0.5, 1.0, 2.0, 8.0):
        made = captioner({"fire": Thresholds(0.0, 0.0, cost)})
        named = {i for i, h in enumerate(made.caption(clips)) if names_hazard(h.text, "fire")}
        after = scores(made, clips)
        assert all(after[i] >= before[i] - cost - 1e-4 for i in named)
        spoken.append(named)
    assert all(fewer <= more for fewer, more in pairwise(spoken))
    # The costs tell them apart: none is forced for nothing, each of them at some price.
    assert spoken[0] < spoken[-1] == set(range(len(clips)))


def test_two_hazards_are_said_where_both_are_strong():
    clips = pictures(3)
    both = {hazard: Thresholds(0.0, 0.0) for hazard in ("fire", "fight")}
    for hypothesis in captioner(both).caption(clips):
        assert all(names_hazard(hypothesis.text, hazard) for hazard in both)
    # One that no caption bears keeps none from the other.
    for dear in both:
        thresholds = {**both, dear: Thresholds(0.0, 0.0, 0.0)}
        other = next(hazard for hazard in both if hazard != dear)
        captions = [h.text for h in captioner(thresholds).caption(clips)]
        assert all(names_hazard(caption, other) for caption in captions)
        assert not all(names_hazard(caption, dear) for caption in captions)


def test_what_is_denied_stays_unsaid_where_nothing_can_be_forced():
    clips = pictures(4)
    thresholds = {**silent("fight"), "fire": Thresholds(0.0, 0.0, 0.0)}
    made = captioner(thresholds, loud="fighting")
    assert not any(names_hazard(h.text, "fight") for h in made.caption(clips))


@pytest.mark.parametrize("caption", ["a man holds a stick", "two men swing a big bat at a car"])
def test_who_holds_a_stick_needs_no_pistol_and_has_no_weapon(caption: str):
    assert suggests_hazard(caption, "weapon")
    assert not names_hazard(caption, "weapon")
    assert not suggests_hazard(caption, "fight")


@pytest.mark.parametrize(
    "caption", ["a dog runs with a stick", "a bat hangs on a wall", "he waves"]
)
def test_a_thing_that_nobody_holds_suggests_nothing(caption: str):
    assert not suggests_hazard(caption, "weapon")


def test_what_is_named_is_suggested():
    for hazard, words in HAZARD_WORDS.items():
        assert all(suggests_hazard(f"a {word} there", hazard) for word in words)


def test_nobody_is_named_where_no_concept_sees_people():
    clips = pictures(4)
    assert any(names_people(h.text) for h in captioner({}, loud="man").caption(clips))
    unseen = captioner({}, "man", ("fire", "man"))
    for deny, named in ((1.0, False), (0.0, True)):
        unseen.concepts = replace(unseen.concepts, thresholds=people_thresholds(deny))
        told = unseen.caption(clips)
        assert any(names_people(h.text) for h in told) is named
        assert [one.text for one in told] == [unseen.caption([clip])[0].text for clip in clips]


def test_people_are_judged_by_the_likeliest_concept_of_them():
    made = captioner(people_thresholds(0.5), concepts=("man", "woman"))
    clips = pictures(5)
    likeliest = made.detect(clips, ("man", "woman")).max(1)
    assert made._evidence(made.prepare(made.windows(clips))) == {
        PEOPLE: pytest.approx(likeliest.tolist())
    }


def test_a_captioner_without_concepts_of_people_names_them_as_before():
    clips = pictures(4)
    plain = captioner({}, loud="man").caption(clips)
    assert captioner(people_thresholds(1.0), loud="man").caption(clips) == plain


def test_dogs_in_groups_are_no_people():
    assert names_people("a woman and her dog") and names_people("two skiers on a slope")
    assert not names_people("a group of dogs runs and one has a ball in his mouth")


def grey(picture: np.ndarray, cast: int = 0) -> np.ndarray:
    """A picture without its colours, of a slight cast where one is asked for."""
    light = picture.mean(-1, keepdims=True).clip(0, 255 - cast)
    return (light + np.array([cast, 0, 0])).astype(np.uint8)


def small_coat(picture: np.ndarray) -> np.ndarray:
    """The grey picture of somebody in a red coat far away: a fiftieth of the width and height."""
    seen = grey(picture)
    height, width = seen.shape[:2]
    seen[: height // 50, : width // 50] = (180, 40, 40)
    return seen


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("frames", [1, 3])
def test_colours_are_named_only_where_a_frame_shows_one(beam_size: int, frames: int):
    made = captioner(certain("fire"), loud="red")
    clips = [np.stack([picture] * frames) for picture in pictures(4)]
    for clip in clips[::2]:
        clip[:] = grey(clip)
    clips[1][:-1] = grey(clips[1][:-1])  # one frame with colours is enough
    told = [h.text for h in made.caption(clips, beam_size=beam_size)]
    assert [names_colour(text) for text in told] == [False, True, False, True]
    assert all(names_hazard(text, "fire") for text in told)
    assert told == [made.caption([clip], beam_size=beam_size)[0].text for clip in clips]


def test_colours_of_grey_pictures_are_left_to_the_decoder_where_it_is_asked_for():
    made, clips = captioner({}, loud="red"), [grey(picture) for picture in pictures(2)]
    free = made.caption(clips, decoding=Decoding(grounded=False))
    assert any(names_colour(h.text) for h in free)
    windows = [window[:2] for window in made.windows(clips)]  # nothing is said of colours
    assert [h.text for h in made.decode(windows)] == [h.text for h in free]


def test_words_that_are_forbidden_stay_so_where_the_search_is_asked_again():
    clips, strong = pictures(3), captioner({**certain("fire"), **silent("fight")}, loud="fighting")
    for words in (("burning",), ("fire", "burning"), ("fire", "burning", "dog")):
        for hypothesis in strong.caption(clips, decoding=Decoding(forbidden_words=words)):
            assert set(words).isdisjoint(hypothesis.text.split())


@pytest.mark.parametrize("side", [64, 256])
def test_noise_and_a_slight_cast_are_no_colour_and_a_small_coat_is(side: int):
    random = np.random.default_rng(side)
    scene = np.repeat(np.repeat(random.integers(0, 256, (side // 8, side // 8, 3)), 8, 0), 8, 1)
    scene = scene.astype(np.uint8)
    assert shows_colour(scene)
    assert not shows_colour(grey(scene))
    assert not shows_colour(grey(scene, cast=4))
    assert shows_colour(small_coat(scene))
    if side == 256:
        noisy = grey(scene) + random.normal(0, 6, scene.shape)
        assert not shows_colour(noisy.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    "caption", ["a man in a blue-striped shirt", "a brown-haired dog", "multi-colored flags"]
)
def test_a_compound_names_the_colour_in_it(caption: str):
    assert names_colour(caption)
    assert not names_colour("a black and white dog stands before a grey wall, bored and scared")


def test_what_a_claim_is_said_with_makes_it():
    assert all(claim.named_in(word) for claim in CLAIMS.values() for word in claim.said_as)
