"""Runtimes: the same captions at different speeds, behind one interface.

``eager`` is plain PyTorch. ``openvino`` runs encoder and decoder step as OpenVINO graphs on the
CPU; ``openvino-bf16`` lets the encoder compute in half precision, ``openvino-int8`` keeps the
decoder's weights in eight bits, and ``openvino-bf16-int8`` does both (captions differ a little).
``cuda-graph`` replays recorded CUDA graphs on a GPU.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from models.runtimes.cuda_graph import CudaGraphEngine
from models.runtimes.engine import EagerEngine, Engine, RuntimeUnavailable
from models.runtimes.openvino import OpenVinoEngine

if TYPE_CHECKING:
    from models.captioner import Captioner

__all__ = ["RUNTIMES", "Engine", "RuntimeUnavailable", "use_runtime"]

log = logging.getLogger(__name__)

RUNTIMES = (
    *("auto", "eager", "openvino", "openvino-bf16", "openvino-int8", "openvino-bf16-int8"),
    "cuda-graph",
)


def use_runtime(captioner: Captioner, name: str) -> None:
    """Let a captioner run on the named runtime.

    Raises:
        RuntimeUnavailable: It does not fit the captioner's device, or is not installed.

    """
    if name != "auto":
        captioner.run_on(_build(captioner, name))
        return
    try:
        captioner.run_on(_build(captioner, _fastest(captioner.device.type)))
    except RuntimeUnavailable as error:
        log.warning("%s; running on plain PyTorch", error)


def _fastest(device_type: str) -> str:
    return {"cpu": "openvino", "cuda": "cuda-graph"}.get(device_type, "eager")


def _build(captioner: Captioner, name: str) -> Engine:
    encoder, decoder, device = captioner.encoder, captioner.decoder, captioner.device
    if name == "eager":
        return EagerEngine(encoder, decoder)
    if not encoder.traceable:
        raise RuntimeUnavailable(
            f"{encoder.name} finds regions picture by picture, which runtime {name!r} cannot trace"
        )
    if name == "cuda-graph":
        return CudaGraphEngine(encoder, decoder, device)
    if device.type != "cpu":
        raise RuntimeUnavailable(f"runtime {name!r} runs on the CPU, not on {device}")
    _, *options = name.split("-")
    return OpenVinoEngine(
        encoder,
        decoder,
        captioner.input_size,
        "bf16" if "bf16" in options else "f32",
        weights_in_8_bits="int8" in options,
    )
