"""Encoders of every family: grids and regions, their weights by name, and where regions lie."""

from __future__ import annotations

from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from models.captioner import Captioner
from models.concept_vocabulary import ConceptVocabulary
from models.decoders import Decoder, DecoderConfig
from models.encoders import EncoderError, build_encoder, encoder_names, load_imagenet_weights
from models.regions import spread_over_grid
from models.runtimes import RuntimeUnavailable, use_runtime
from models.vocabulary import Vocabulary

REGIONS = "torchvision/fasterrcnn_mobilenet_v3_large_320_fpn"
WORDS = ["<pad>", "<begin>", "<end>", "<unknown>", "a", "man", "dog", "runs", "sits", "here"]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("torchvision/vgg16", 512),
        ("torchvision/resnet50", 2048),
        ("torchvision/mobilenet_v3_large", 960),
        ("torchvision/efficientnet_b0", 1280),
        ("mobilenetv3_small_050", 1024),
    ],
)
def test_an_encoder_gives_a_grid_of_regions(name: str, size: int) -> None:
    encoder = build_encoder(name)
    with torch.inference_mode():
        grid = encoder(torch.randint(0, 256, (2, 3, 96, 64), dtype=torch.uint8))
    assert grid.shape == (2, 6, size)
    assert encoder.feature_size == size
    assert name in encoder_names()


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("mobilenetv3_small_050", 8),
        ("ghostnet_050", 12),
        ("resnet18", 8),
        ("convnext_atto", 1),
        ("torchvision/mobilenet_v3_small", 13),
    ],
)
def test_an_encoder_may_be_cut_anywhere(name: str, stages: int) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name)
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert len(encoder.stages()) == stages
    with torch.inference_mode():
        for cut in range(stages + 1):
            parts = encoder.upper(encoder.lower(pixels, cut), cut)
            torch.testing.assert_close(parts, encoder(pixels), atol=1e-4, rtol=1e-4)
    with pytest.raises(EncoderError, match=f"has {stages} stages, not 40"):
        encoder.channels_after(40)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s32_224"]
)
def test_an_encoder_without_a_grid_is_refused(name: str) -> None:
    with pytest.raises(EncoderError, match="choose a convolutional encoder"):
        build_encoder(name)


@pytest.fixture(scope="module")
def detector() -> Captioner:
    torch.manual_seed(2)
    encoder = build_encoder(REGIONS)
    config = DecoderConfig(len(WORDS), encoder.feature_size, 16, 24, 20, 12, concept_count=1)
    known = ConceptVocabulary(("man",))
    return Captioner(encoder, Decoder(config), Vocabulary(WORDS), 96, known).eval()


def test_regions_are_features_with_boxes_and_the_whole_picture_among_them(
    detector: Captioner,
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    features = detector.encode(frames)
    assert features.shape == (2, 36, detector.encoder.feature_size)
    boxes = features[..., -4:]
    assert (boxes[:, 0] == torch.tensor([0.0, 0.0, 1.0, 1.0])).all()
    assert ((boxes >= 0) & (boxes <= 1)).all()
    assert (boxes[..., 2:] >= boxes[..., :2]).all()
    for frame, together in zip(frames, features, strict=True):
        alone = detector.encode(frame[None])[0]
        torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-4)


def test_words_tell_where_the_regions_lie_that_they_looked_at(detector: Captioner) -> None:
    clip = np.random.default_rng(1).integers(0, 256, (2, 60, 80, 3), np.uint8)
    best = detector.caption([clip], beam_size=2)[0]
    for word in best.words:
        assert word.attention.shape == (2, 14, 14)
        assert word.attention.sum() == pytest.approx(1, abs=1e-3)
    _, (where,) = detector.detect([clip], ["man"], return_regions=True)
    assert where.shape == (1, 2, 14, 14)


def test_a_detector_is_cut_into_one_stage_for_the_feature_cache(detector: Captioner) -> None:
    pixels = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    with torch.inference_mode():
        maps = detector.encoder.lower(pixels, 1)
        torch.testing.assert_close(detector.encoder.upper(maps, 1), detector.encoder(pixels))


def test_a_detector_runs_on_plain_pytorch_and_says_why(
    detector: Captioner, caplog: pytest.LogCaptureFixture
) -> None:
    use_runtime(detector, "auto")
    assert detector.runtime == "eager"
    assert "running on plain PyTorch" in caplog.text
    with pytest.raises(RuntimeUnavailable, match="picture by picture"):
        use_runtime(detector, "openvino")


unit = st.floats(-0.2, 1.2)


@given(left=unit, top=unit, right=unit, bottom=unit)
def test_spreading_keeps_the_sum(left: float, top: float, right: float, bottom: float) -> None:
    grid = spread_over_grid(torch.tensor([0.7]), torch.tensor([[left, top, right, bottom]]), 6)
    assert float(grid.sum()) == pytest.approx(0.7, abs=1e-4)
    assert (grid >= 0).all()


def test_a_box_is_where_it_is() -> None:
    boxes = torch.tensor([[0.5, 0.0, 1.0, 0.25], [0.0, 0.75, 0.25, 1.0]])
    grid = spread_over_grid(torch.tensor([0.8, 0.2]), boxes, 4)
    expected = torch.zeros(4, 4)
    expected[0, 2:] = 0.4
    expected[3, 0] = 0.2
    torch.testing.assert_close(grid, expected)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18", REGIONS.split("/")[1]])
def test_trained_weights_come_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(9)
    keys = {"weights_backbone": None} if name.startswith("fasterrcnn") else {}
    theirs = torchvision.models.get_model(name, weights=None, **keys).state_dict()
    asked = []

    def get_state_dict(**options: object) -> dict[str, torch.Tensor]:
        asked.append(options)
        return theirs

    published = SimpleNamespace(DEFAULT=SimpleNamespace(get_state_dict=get_state_dict))
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda short: published)
    encoder = build_encoder(f"torchvision/{name}")
    load_imagenet_weights(encoder)
    first = next(iter(theirs.values()))
    assert torch.equal(next(iter(encoder.trunk.state_dict().values())), first)
    assert asked[0]["weights_only"] is True


def test_weights_that_cannot_be_had_are_an_error_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(**_: object) -> None:
        raise URLError("no route to host")

    published = SimpleNamespace(DEFAULT=SimpleNamespace(get_state_dict=unreachable))
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda short: published)
    with pytest.raises(EncoderError, match="no route to host"):
        load_imagenet_weights(build_encoder("torchvision/mobilenet_v3_small"))
