"""The captioner on small random models: batching, windows, checkpoints, evidence."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_captioner import tiny_captioner

from models import CheckpointError, Hypothesis, load_captioner
from models.captioner import Captioner, pad_windows
from models.checkpoint import load_checkpoint, save_checkpoint
from models.checkpoint_files import checkpoint_identity
from models.concept_agreement import ConceptLexicon
from models.concept_vocabulary import ConceptVocabulary
from models.decoders import Decoder, DecoderConfig
from models.encoders import EncoderError, build_encoder, encoder_names
from models.fusion import Memory
from models.grounding import Thresholds
from models.registry import checkpoint_names
from models.transforms import to_square
from models.vocabulary import BEGIN, END, UNKNOWN, Vocabulary, tokenize
from models.wording import count_forbidden, neutral

WORDS = ["<pad>", "<begin>", "<end>", "<unknown>", "a", "man", "dog", "runs", "sits", "here"]
SIDE = 64
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return tiny_captioner(WORDS, SIDE, seed=3, window_frames=4, dropout=0.3)


@pytest.fixture(scope="module")
def detector() -> Captioner:
    """A captioner with a concept head and dot attention, as the shipped one."""
    words = ("fire", "fight", "man", "person_down")
    return tiny_captioner(WORDS, SIDE, seed=5, concepts=words, attention="dot")


def clips(count: int, frames: int = 1) -> list[np.ndarray]:
    random = np.random.default_rng(count * 10 + frames)
    shape = (48, 80, 3) if frames == 1 else (frames, 48, 80, 3)
    return [random.integers(0, 256, shape, np.uint8) for _ in range(count)]


def same(one: Hypothesis, other: Hypothesis) -> None:
    assert one.text == other.text
    assert one.log_probability == pytest.approx(other.log_probability, abs=1e-3)
    for a, b in zip(one.words, other.words, strict=True):
        assert a.probability == pytest.approx(b.probability, abs=1e-3)
        np.testing.assert_allclose(a.attention, b.attention, atol=1e-3)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_batch_equals_its_clips_one_by_one(captioner: Captioner, beam_size: int):
    batch = [*clips(2), *clips(2, frames=3)]
    together = captioner.caption(batch, beam_size=beam_size)
    for clip, expected in zip(batch, together, strict=True):
        same(captioner.caption([clip], beam_size=beam_size)[0], expected)


def test_encoding_once_and_decoding_windows_equals_caption(captioner: Captioner):
    clip = clips(1, frames=3)[0]
    squares = np.stack([to_square(frame, SIDE) for frame in clip])
    each = [captioner.encode(squares[i : i + 1])[0] for i in range(3)]
    same(captioner.decode([(each, [0.0, 0.4, 0.8])])[0], captioner.caption([clip])[0])


def test_windows_made_ready_once_give_the_same(captioner: Captioner):
    windows = captioner.windows([*clips(2, frames=3), *clips(1)])
    ready = captioner.prepare(windows)
    assert captioner.prepare(ready) is ready
    for mine, expected in zip(captioner.decode(ready), captioner.decode(windows), strict=True):
        same(mine, expected)
    sentences = ["a man runs", "a dog"]
    scores = captioner.score_windows(ready, sentences)
    torch.testing.assert_close(scores, captioner.score_windows(windows, sentences))


def test_a_long_clip_is_seen_through_its_newest_frames(captioner: Captioner):
    clip = clips(1, frames=7)[0]
    same(captioner.caption([clip])[0], captioner.caption([clip[-4:]])[0])


def test_padding_holds_no_attention_and_changes_no_logits(captioner: Captioner):
    still = captioner.encode(np.stack([to_square(clips(1)[0], SIDE)]))
    padded, mask = pad_windows([[still[0]], list(still.repeat(3, 1, 1))])
    tokens = torch.tensor([[[BEGIN, 4, 5, 7, END]]])
    decoder = captioner.decoder
    with torch.inference_mode():
        alone, _ = decoder(decoder.memory(still[None], torch.ones(1, 1, dtype=torch.bool)), tokens)
        within, attention = decoder(decoder.memory(padded[:1], mask[:1]), tokens)
    torch.testing.assert_close(alone, within)
    regions = still.shape[1]
    assert attention[..., : 2 * regions].abs().max() == 0
    torch.testing.assert_close(attention.sum(-1), torch.ones(1, 1, 4))


def test_the_order_of_frames_matters_once_time_is_learned(captioner: Captioner):
    decoder = Decoder(captioner.decoder.config)
    torch.nn.init.normal_(decoder.time.table.weight)
    features = torch.randn(1, 3, 4, decoder.config.feature_size)
    mask = torch.ones(1, 3, dtype=torch.bool)
    forward, backward = decoder.memory(features, mask), decoder.memory(features.flip(1), mask)
    turned = backward.values.view(1, 3, 4, -1).flip(1).flatten(1, 2)
    assert not torch.allclose(forward.values, turned)


def test_words_say_probability_and_where_the_model_looked(captioner: Captioner):
    best = captioner.caption(clips(1, frames=3), beam_size=3)[0]
    assert best.text == " ".join(word.text for word in best.words)
    for word in best.words:
        assert 0 < word.probability <= 1
        assert word.attention.shape == (3, 2, 2)
        assert word.attention.sum() == pytest.approx(1, abs=1e-4)
    assert 1 <= len(best.alternatives) <= 2
    assert len({best.text, *(other.text for other in best.alternatives)}) > 1


def test_a_picture_beside_longer_windows_keeps_its_own_grid(captioner: Captioner):
    batch = [*clips(1), *clips(1, frames=4)]
    for hypothesis, frames in zip(captioner.caption(batch), (1, 4), strict=True):
        assert {word.attention.shape for word in hypothesis.words} == {(frames, 2, 2)}


def test_no_caption_is_empty_or_holds_a_special_word(captioner: Captioner):
    for hypothesis in captioner.caption(clips(6), beam_size=3):
        for text in (hypothesis.text, *(other.text for other in hypothesis.alternatives)):
            assert len(text.split()) >= 3
            assert "<" not in text


def test_log_probability_is_what_teacher_forcing_gives(captioner: Captioner):
    clip = clips(1)[0]
    best = captioner.caption([clip], beam_size=1)[0]
    features, mask = pad_windows([captioner.encode(to_square(clip, SIDE)[None])])
    with torch.inference_mode():
        memory = captioner.decoder.memory(features, mask)
        again = captioner._sentence_log_probability(memory, [best.text])
    if best.finished:
        assert best.log_probability == pytest.approx(float(again), abs=1e-3)
    spoken = sum(math.log(word.probability) for word in best.words)
    assert best.log_probability <= spoken + 1e-4


def test_score_gives_evidence_for_each_clip_and_sentence(captioner: Captioner):
    batch = clips(3)
    sentences = ["a man runs", "a dog sits here", "an unheard word"]
    scores = captioner.score(batch, sentences)
    assert scores.shape == (3, 3)
    assert torch.isfinite(scores).all()
    one = captioner.score(batch[1:2], sentences[1:2])
    assert float(scores[1, 1]) == pytest.approx(float(one), abs=1e-3)


def test_what_a_sentence_scores_does_not_hang_on_the_clips_beside(captioner: Captioner):
    sentences = ["a man runs", "a dog sits here"]
    random = np.random.default_rng(5)
    mixed = [random.integers(0, 256, (frames, 20, 30, 3), np.uint8) for frames in (1, 3, 2, 3)]
    together = captioner.score(mixed, sentences)
    for row, clip in zip(together, mixed, strict=True):
        torch.testing.assert_close(row, captioner.score([clip], sentences)[0], atol=1e-3, rtol=0)
    assert captioner.score([], sentences).shape == (0, 2)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((0, 4, 4, 3), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(captioner: Captioner, bad: np.ndarray):
    with pytest.raises(ValueError, match="uint8 RGB"):
        captioner.caption([bad])


def test_encode_refuses_other_sizes(captioner: Captioner):
    with pytest.raises(ValueError, match=f"{SIDE}, {SIDE}"):
        captioner.encode(np.zeros((1, 32, 32, 3), np.uint8))


def test_nothing_in_nothing_out(captioner: Captioner):
    assert captioner.decode([]) == []


def test_not_a_number_in_the_features_is_no_crash(captioner: Captioner):
    features = torch.full((4, captioner.encoder.feature_size), float("nan"))
    assert captioner.decode([([features], [0.0])])[0].words == ()


# Checkpoints


def test_a_checkpoint_comes_back_the_same(captioner: Captioner, tmp_path: Path):
    save_checkpoint(tmp_path, captioner)
    back = load_checkpoint(tmp_path, "tiny", CPU)
    assert back.identity == checkpoint_identity(tmp_path, "tiny")
    assert back.vocabulary.words == captioner.vocabulary.words
    for name, value in captioner.state_dict().items():
        within = float(value.abs().max()) / 127 if name == "decoder.words.weight" else 2e-3
        torch.testing.assert_close(back.state_dict()[name], value, atol=within, rtol=2e-3)
    save_checkpoint(tmp_path / "again", back)
    twice = load_checkpoint(tmp_path / "again", "tiny", CPU)
    assert twice.caption(clips(2)) == back.caption(clips(2))


def raised(thresholds: Mapping[str, Thresholds]) -> dict[str, Thresholds]:
    return {**thresholds, "fire": Thresholds(0.0, 0.5)}


@pytest.mark.parametrize(
    "change",
    [
        lambda known: replace(known, thresholds=raised(known.thresholds)),
        lambda known: replace(known, lexicon=ConceptLexicon(known.lexicon.words, (0.4, 0.3))),
        lambda known: replace(known, lexicon=None),
        lambda known: replace(known, words=known.words[::-1]),
    ],
    ids=["thresholds", "lexicon", "no lexicon", "words"],
)
def test_what_changes_captions_changes_the_id_and_not_the_tensors_part(
    tmp_path: Path, change: Callable[[ConceptVocabulary], ConceptVocabulary]
):
    made = tiny_captioner(WORDS, SIDE, seed=5, concepts=("fire", "man"), attention="dot")
    lexicon = ConceptLexicon((("fire",), ("man",)), (0.3, 0.3))
    made.concepts = replace(made.concepts, lexicon=lexicon)
    save_checkpoint(tmp_path / "a", made)
    made.concepts = change(made.concepts)
    save_checkpoint(tmp_path / "b", made)
    one, other = (load_checkpoint(tmp_path / name, "m", CPU).identity for name in "ab")
    assert one != other
    assert one.rpartition("-")[0] == other.rpartition("-")[0] == one[: len("m-") + 12]


def test_other_words_and_other_tensors_change_the_id_and_layout_does_not(
    captioner: Captioner, tmp_path: Path
):
    save_checkpoint(tmp_path, captioner)
    before = checkpoint_identity(tmp_path, "m")
    config, vocabulary = tmp_path / "config.json", tmp_path / "vocabulary.txt"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(dict(reversed(content.items()))))
    (tmp_path / "card.md").write_text("a card")
    assert checkpoint_identity(tmp_path, "m") == before
    config.write_text(json.dumps(content | {"sha256": "0" * 64}))
    assert checkpoint_identity(tmp_path, "m") == f"m-{'0' * 12}-{before.rpartition('-')[2]}"
    config.write_text(json.dumps(content | {"input_size": 96}))
    assert checkpoint_identity(tmp_path, "m") != before
    config.write_text(json.dumps(content))
    vocabulary.write_text(vocabulary.read_text().replace("dog", "cat"))
    assert checkpoint_identity(tmp_path, "m") != before


def test_one_flipped_byte_is_found(captioner: Captioner, tmp_path: Path):
    save_checkpoint(tmp_path, captioner)
    file = tmp_path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path, "tiny", CPU)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocabulary.txt"])
def test_a_missing_file_is_named(captioner: Captioner, tmp_path: Path, name: str):
    save_checkpoint(tmp_path, captioner)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(tmp_path, "tiny", CPU)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"format": 1}'])
def test_a_config_that_is_none_is_refused(captioner: Captioner, tmp_path: Path, text: str):
    save_checkpoint(tmp_path, captioner)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_checkpoint(tmp_path, "tiny", CPU)


def test_tensors_of_another_model_are_refused(captioner: Captioner, tmp_path: Path):
    save_checkpoint(tmp_path, captioner)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["decoder.output.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    data = (tmp_path / "model.safetensors").read_bytes()
    config["sha256"] = hashlib.sha256(data).hexdigest()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(tmp_path, "tiny", CPU)


def test_a_pickle_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("unpickled"))
    torch.save({"model": 1}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError):
        load_captioner(str(tmp_path))
    with pytest.raises(CheckpointError):
        load_captioner(str(tmp_path / "model.pt"))


def test_an_unknown_model_names_the_known_ones():
    with pytest.raises(CheckpointError, match="default"):
        load_captioner("no-such-model")


@pytest.mark.parametrize("choice", [{"runtime": "steam"}, {"device": "cuda:77"}])
def test_a_runtime_or_device_that_is_not_there_is_said(choice: dict[str, str]):
    if "device" in choice and torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    with pytest.raises(CheckpointError, match=r"not there|no runtime"):
        load_captioner("default", **choice)


# Encoders, transforms, words


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "torchvision/mobilenet_v3_small"])
def test_encoders_of_both_families_give_a_grid(name: str):
    encoder = build_encoder(name)
    with torch.inference_mode():
        grid = encoder(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    assert grid.shape == (2, 4, encoder.feature_size)
    assert name in encoder_names()


def test_an_unknown_encoder_is_refused():
    for name in ("nothing", "torchvision/nothing"):
        with pytest.raises(EncoderError, match="nothing"):
            build_encoder(name)


def test_the_whole_picture_is_squashed():
    image = np.zeros((50, 200, 3), np.uint8)
    image[:, 100:] = 200
    square = to_square(image, 40)
    assert square.shape == (40, 40, 3)
    assert square[:, :19].max() == 0
    assert square[:, 21:].min() == 200


@given(st.lists(st.sampled_from(WORDS[4:]), min_size=1, max_size=12))
def test_known_words_come_back(words: list[str]):
    vocabulary = Vocabulary(WORDS)
    assert vocabulary.decode(vocabulary.encode(" ".join(words))) == " ".join(words)


@given(st.text(max_size=60))
def test_any_text_becomes_words_without_capitals_or_marks(text: str):
    for word in tokenize(text):
        assert word == word.lower()
        assert not set(word) & set(' .,;:!?"()')
    assert all(token >= UNKNOWN for token in Vocabulary(WORDS).encode(text))


def test_a_vocabulary_keeps_frequent_words_and_those_asked_for():
    built = Vocabulary.build(["a dog a cat", "a dog"], 2, always=["zebra"])
    assert built.words[4:] == ("a", "dog", "zebra")


# What is shipped


def test_the_shipped_checkpoint_captions_a_drawn_picture():
    assert "default" in checkpoint_names()
    shipped = load_captioner("default", device="cpu")
    picture = np.full((120, 160, 3), (90, 140, 220), np.uint8)
    picture[70:] = (60, 130, 50)
    hypothesis = shipped.caption([picture], beam_size=3)[0]
    assert len(hypothesis.text.split()) >= 3
    assert hypothesis.finished


def test_the_shipped_checkpoint_is_small_and_has_a_card():
    folder = Path(__file__).parent.parent / "models" / "weights" / "default"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 25_000_000
    card = (folder / "card.md").read_text()
    assert "research and evaluation" in card
    assert checkpoint_identity(folder, "default") in card


def test_memory_is_not_repeated_over_beams(captioner: Captioner):
    features = captioner.encode(np.stack([to_square(c, SIDE) for c in clips(2)]))
    tokens = torch.tensor([4, 5, 6, 4, 5, 6])
    with torch.inference_mode():
        mask = torch.ones(2, 1, dtype=torch.bool)
        memory = captioner.decoder.memory(features.unsqueeze(1), mask)
        state = captioner.decoder.initial_state(memory)
        wide = type(state)(*(part.repeat_interleave(3, 0) for part in state))
        logits, new = captioner.decoder.step(tokens, wide, memory)
        second = Memory(*(part[1:] for part in memory))
        rows = type(state)(*(part[3:4] for part in wide))
        alone, _ = captioner.decoder.step(tokens[3:4], rows, second)
    assert logits.shape == (6, len(WORDS))
    assert new.attention.shape == (6, 4)
    torch.testing.assert_close(logits[3:4], alone)


def test_detection_of_a_batch_equals_its_clips_one_by_one(detector: Captioner):
    batch = [*clips(2), *clips(2, frames=3)]
    words = ["fighting", "person_down", "fire"]
    together, regions = detector.detect(batch, words, return_regions=True)
    assert together.shape == (4, 3)
    assert ((together > 0) & (together < 1)).all()
    for clip, found, where in zip(batch, together, regions, strict=True):
        alone, alone_where = detector.detect([clip], words, return_regions=True)
        np.testing.assert_allclose(alone[0], found, atol=1e-4)
        np.testing.assert_allclose(alone_where[0], where, atol=1e-4)
        frames = 1 if clip.ndim == 3 else len(clip)
        assert where.shape == (3, frames, 2, 2)
        # What the regions put in is part of the whole: alone it gives no more probability.
        assert (1 - np.exp(-where.sum((1, 2, 3))) <= found + 1e-5).all()


def test_an_unknown_word_is_an_error_that_names_the_nearest(detector: Captioner):
    with pytest.raises(ValueError, match="cannot detect 'figth': the nearest are fight"):
        detector.detect(clips(1), ["figth"])


def test_a_model_without_concepts_says_so(captioner: Captioner):
    with pytest.raises(ValueError, match="it has no concept head"):
        captioner.detect(clips(1), ["fire"])


@pytest.mark.parametrize(
    ("words", "lexicon"),
    [
        (("fire", "fire"), None),
        (("fire", "man"), ConceptLexicon((("fire",),), (0.5,))),
    ],
)
def test_a_concept_vocabulary_that_contradicts_itself_is_refused(
    words: tuple[str, ...], lexicon: ConceptLexicon | None
):
    with pytest.raises(ValueError, match="concept"):
        ConceptVocabulary(words, lexicon)


def test_a_concept_vocabulary_is_not_changed_from_outside(detector: Captioner):
    thresholds = {"fire": Thresholds(0.1, 0.2)}
    known = ConceptVocabulary(detector.concept_words, thresholds=thresholds)
    thresholds["fire"] = Thresholds(0.3, 0.4)
    assert known.thresholds == {"fire": Thresholds(0.1, 0.2)}
    with pytest.raises(TypeError):
        known.thresholds["fire"] = Thresholds(0.3, 0.4)  # type: ignore[index]


def test_thresholds_of_what_no_caption_claims_are_refused():
    with pytest.raises(ValueError, match="thresholds of 'flood', which is none of fire, smoke"):
        ConceptVocabulary(thresholds={"flood": Thresholds(0.1, 0.2)})


def test_concepts_of_another_head_are_refused(detector: Captioner):
    before = detector.concepts
    with pytest.raises(ValueError, match="1 concept words for a head of"):
        detector.concepts = ConceptVocabulary(("fire",))
    assert detector.concepts is before


@pytest.mark.parametrize(
    "values",
    [{"deny": 0.6, "say": 0.5}, {"deny": 0, "say": 1, "cost": -1}, {"deny": "0.1", "say": 1}],
)
def test_thresholds_that_are_none_are_refused(
    detector: Captioner, tmp_path: Path, values: dict[str, Any]
):
    save_checkpoint(tmp_path, detector)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"thresholds": {"fire": values}}))
    with pytest.raises(CheckpointError, match=r"config\.json: not usable"):
        load_checkpoint(tmp_path, "c", CPU)


def test_concepts_survive_the_checkpoint(detector: Captioner, tmp_path: Path):
    save_checkpoint(tmp_path / "c", detector)
    loaded = load_checkpoint(tmp_path / "c", "c", CPU)
    assert loaded.concept_words == detector.concept_words
    clip = clips(1, frames=3)
    ours, theirs = (c.detect(clip, ["fire", "man"]) for c in (detector, loaded))
    np.testing.assert_allclose(ours, theirs, atol=1e-2)  # half precision


def test_a_forbidden_word_is_never_said():
    torch.manual_seed(1)
    encoder = build_encoder("test_efficientnet")
    decoder = Decoder(DecoderConfig(len(WORDS) + 1, encoder.feature_size, 16, 24, 20, 12))
    decoder.output.bias.data[len(WORDS)] = 50.0  # it wants to say nothing else
    captioner = Captioner(encoder, decoder, Vocabulary([*WORDS, "fat"]), SIDE).eval()
    found = captioner.caption(clips(2))
    assert all("fat" not in h.text.split() for h in found)
    assert all("fat" not in a.text.split() for h in found for a in h.alternatives)


@pytest.mark.parametrize(
    ("caption", "neutral_caption"),
    [
        ("a fat white man with a black dog", "a man with a black dog"),
        ("two African women stand in white snow", "two women stand in white snow"),
        ("an American flag on a white wall", "an American flag on a white wall"),
        ("a black young boy in a red car", "a young boy in a red car"),
    ],
)
def test_wording_is_neutral(caption: str, neutral_caption: str):
    assert neutral(caption) == neutral_caption
    assert not count_forbidden([neutral_caption])
    assert bool(count_forbidden([caption])) == (caption != neutral_caption)


@pytest.fixture(scope="module")
def evidenced() -> Captioner:
    """A captioner whose read-out reads an evidence branch, as the shipped one."""
    captioner = tiny_captioner(
        WORDS, SIDE, seed=6, concepts=("fire", "man"), evidence_after=3, hazard_count=1
    )
    readout = captioner.decoder.readout
    assert readout is not None
    for weights in (readout.strongest, readout.mean, readout.motion):
        torch.nn.init.normal_(weights, std=0.1)
    return captioner


def test_evidence_stands_behind_the_features_and_changes_nothing_before_it(evidenced: Captioner):
    encoder = evidenced.encoder
    pixels = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    with torch.inference_mode():
        both = encoder(pixels)
        maps = encoder.lower(pixels, 3)
        torch.testing.assert_close(encoder.upper(maps, 3), both)
        trunk = encoder.trunk((pixels - encoder.mean) / encoder.std).flatten(2).transpose(1, 2)
    assert both.shape[-1] == encoder.feature_size + encoder.evidence_size
    seen = both[..., : encoder.feature_size]
    torch.testing.assert_close(seen, trunk)
    # The branch was attached before anything was tuned, so it sees what the trunk sees.
    torch.testing.assert_close(both[..., encoder.feature_size : 2 * encoder.feature_size], seen)
    below = both[..., 2 * encoder.feature_size :]
    torch.testing.assert_close(below.mean(1), maps.mean((2, 3)))
    refused = pytest.raises(EncoderError, match="reads maps after 3 stages, not after 4")
    with torch.inference_mode(), refused:
        encoder.upper(encoder.lower(pixels, 4), 4)


def test_the_read_out_reads_the_evidence_and_captions_do_not(evidenced: Captioner):
    decoder = evidenced.decoder
    features = torch.rand(1, 3, 4, evidenced.encoder.feature_size + evidenced.encoder.evidence_size)
    mask = torch.ones(1, 3, dtype=torch.bool)
    moved = features.clone()
    moved[..., evidenced.encoder.feature_size :] += torch.rand(1, 3, 4, 1)
    with torch.inference_mode():
        one, other = decoder.memory(features, mask), decoder.memory(moved, mask)
    torch.testing.assert_close(one.values, other.values)
    torch.testing.assert_close(one.concepts[:, 1:], other.concepts[:, 1:])
    assert abs(float(one.concepts[0, 0] - other.concepts[0, 0])) > 1e-4


def test_evidence_survives_a_checkpoint_in_eight_bits(tmp_path: Path, evidenced: Captioner):
    save_checkpoint(tmp_path, evidenced)
    stored = load_file(tmp_path / "model.safetensors")
    branch = [v for name, v in stored.items() if name.startswith("encoder.evidence.")]
    assert {
        value.dtype for value in branch if value.dim() == 4 and value.shape[1:].numel() > 1
    } >= {torch.int8}
    loaded = load_checkpoint(tmp_path, "eight", CPU)
    batch = clips(3, frames=3)
    found = loaded.detect(batch, ["fire"])
    np.testing.assert_allclose(found, evidenced.detect(batch, ["fire"]), atol=0.02)
    assert [h.text for h in loaded.caption(batch)] == [h.text for h in evidenced.caption(batch)]
