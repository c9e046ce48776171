"""Where the hazard read-out saw what it tells: parts of the log-odds, position by position."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.concepts import HazardReadout

HAZARDS, REGIONS, SIZE = 3, 9, 5


def _readout(seed: int) -> HazardReadout:
    readout = HazardReadout(SIZE, HAZARDS)
    random = torch.Generator().manual_seed(seed)
    for name in ("strongest", "mean", "motion", "offset", "motion_offset"):
        part = getattr(readout, name)
        part += torch.randn(part.shape, generator=random)
    readout.alone[1] = 1.0
    return readout


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), frames=st.integers(1, 5), missing=st.integers(0, 4))
def test_positions_and_offsets_add_up_to_the_log_odds(seed: int, frames: int, missing: int):
    missing = min(missing, frames - 1)
    random = torch.Generator().manual_seed(seed)
    features = torch.rand((2, frames, REGIONS, SIZE), generator=random)
    mask = torch.ones(2, frames, dtype=torch.bool)
    mask[0, :missing] = False
    features[0, :missing] = 0.0
    readout = _readout(seed)
    parts = readout.positions(features, mask)
    assert parts.shape == (2, frames, REGIONS, HAZARDS)
    assert not parts[0, :missing].any()
    moves = (mask.sum(1) > 1).float().unsqueeze(1)
    offset = readout.offset * (1 - moves * readout.alone) + readout.motion_offset * moves
    logits = torch.logit(readout(features, mask).double(), 1e-12).float()
    torch.testing.assert_close(parts.sum((1, 2)) + offset, logits, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(readout.positions(features, mask, [2, 0]), parts[..., [2, 0]])
    assert readout.positions(features, mask, []).shape == (2, frames, REGIONS, 0)


def test_what_is_seen_in_one_place_is_told_there():
    readout = HazardReadout(SIZE, HAZARDS)
    readout.strongest[0, 2] = 4.0
    features = torch.zeros(1, 2, REGIONS, SIZE)
    features[0, 1, 7, 2] = 1.5
    parts = readout.positions(features, torch.ones(1, 2, dtype=torch.bool))
    assert parts[0, 1, 7, 0] == 6.0
    assert parts.sum() == 6.0
