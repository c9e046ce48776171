"""Checkpoints by name, and the one function that loads a captioner."""

from __future__ import annotations

from pathlib import Path

import torch

from models.captioner import Captioner
from models.checkpoint import CheckpointError, load_checkpoint
from models.runtimes import RUNTIMES, RuntimeUnavailable, use_runtime

__all__ = ["checkpoint_folder", "checkpoint_names", "load_captioner"]

_WEIGHTS = Path(__file__).parent / "weights"


def checkpoint_names() -> list[str]:
    """Names of the shipped checkpoints."""
    return sorted(config.parent.name for config in _WEIGHTS.glob("*/config.json"))


def checkpoint_folder(name_or_path: str | Path) -> Path:
    """Folder of a shipped checkpoint, or the path itself.

    Raises:
        CheckpointError: There is neither.

    """
    shipped = _WEIGHTS / str(name_or_path)
    if shipped.parent == _WEIGHTS and shipped.is_dir():
        return shipped
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    known = ", ".join(checkpoint_names())
    raise CheckpointError(f"no model {str(name_or_path)!r}: give a folder, or one of {known}")


def load_captioner(
    name_or_path: str | Path = "default", device: str = "auto", runtime: str = "auto"
) -> Captioner:
    """Load a captioner for inference.

    Args:
        name_or_path: A shipped name or a checkpoint folder.
        device: ``auto`` (CUDA when it is there), ``cpu``, ``cuda`` or ``cuda:N``.
        runtime: One of :data:`models.runtimes.RUNTIMES`; ``auto`` is the fastest that gives the
            same captions: ``openvino`` on a CPU, ``cuda-graph`` on a GPU.

    Raises:
        CheckpointError: No such model, a damaged one, or a device or runtime that is not there.

    """
    if runtime not in RUNTIMES:
        raise CheckpointError(f"no runtime {runtime!r}; there are {', '.join(RUNTIMES)}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise CheckpointError(f"device {device!r} is not there: torch finds no CUDA; use cpu")
    folder = checkpoint_folder(name_or_path)
    captioner = load_checkpoint(folder, folder.name, torch.device(device))
    try:
        use_runtime(captioner, runtime)
    except RuntimeUnavailable as error:
        raise CheckpointError(str(error)) from None
    return captioner
