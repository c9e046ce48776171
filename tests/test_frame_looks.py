"""Frames are looked at once, however many windows hold them, and never with old weights."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor

from models.captioner import pad_windows
from models.concepts import HazardReadout
from models.decoders import Decoder, DecoderConfig, FrameLook
from models.frame_looks import FrameLooks

REGIONS, FEATURES = 4, 6


class CountingDecoder(Decoder):
    """Counts the frames that were looked at."""

    looked_at = 0

    def look(self, features: Tensor) -> FrameLook:
        self.looked_at += len(features)
        return super().look(features)


@pytest.fixture
def decoder() -> CountingDecoder:
    torch.manual_seed(1)
    config = DecoderConfig(9, FEATURES, 5, 8, 7, 3, attention="dot", concept_count=4)
    decoder = CountingDecoder(config)
    readout = HazardReadout(FEATURES, 2)
    for part in readout.buffers():
        part.copy_(torch.randn_like(part))
    decoder.attach(readout, conditions=True)
    return decoder.eval()


def overlapping(frames: list[Tensor]) -> list[list[Tensor]]:
    """Windows of 1, 2 and 3 frames, as a camera that begins gives them."""
    return [frames[:1], frames[:2], frames[:3], frames[1:4]]


@torch.inference_mode()
def test_each_frame_is_looked_at_once_and_the_memory_is_the_same(decoder: CountingDecoder):
    frames = list(torch.randn(4, REGIONS, FEATURES))
    looks, windows = FrameLooks(decoder), overlapping(frames)
    features, mask = pad_windows(windows)
    found = decoder.remember(looks(windows, 3), features, mask)
    looks(windows, 3)
    assert decoder.looked_at == 4
    for part, expected in zip(found, decoder.memory(features, mask), strict=True):
        exists = found.mask if part.dim() == 3 else slice(None)  # the others may hold anything
        torch.testing.assert_close(part[exists], expected[exists])


@torch.no_grad()
def test_new_weights_look_anew_and_what_nobody_keeps_is_forgotten(decoder: CountingDecoder):
    frames = list(torch.randn(4, REGIONS, FEATURES))
    looks = FrameLooks(decoder)
    before = looks([frames], 4)
    decoder.value.weight.mul_(2.0)
    after = looks([frames], 4)
    assert decoder.looked_at == 8
    assert not torch.equal(before.values, after.values)
    del frames
    gc.collect()
    assert len(looks) == 0
