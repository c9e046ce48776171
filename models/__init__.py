"""The captioner: encoder, fusion, decoder, search, checkpoints. Knows nothing of the pipeline.

The names come when they are asked for, so that what needs only words or lists loads no PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.captioner import Captioner, Hypothesis
    from models.checkpoint import CheckpointError
    from models.decoding import Decoding
    from models.registry import load_captioner

__all__ = ["Captioner", "CheckpointError", "Decoding", "Hypothesis", "load_captioner"]

_HOMES = {
    "Captioner": "models.captioner",
    "CheckpointError": "models.checkpoint",
    "Decoding": "models.decoding",
    "Hypothesis": "models.captioner",
    "load_captioner": "models.registry",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
