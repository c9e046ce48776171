"""Encoders, one frame: python -m benchmarks.encoding. Runtimes of ours, and what else there is.

ONNX Runtime takes part where it and `onnx` are installed, BLIP-base with `--blip` (slow).
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Contender, interleave, print_environment, print_table, write_json
from benchmarks.peers import blip_base
from models.encoders import Encoder, build_encoder
from models.runtimes.openvino import encoder_graph

__all__ = ["main"]

_SHAPES = (
    ("tf_efficientnet_lite0", 224),
    ("tf_efficientnet_lite2", 224),
    ("tf_efficientnet_lite2", 260),
)


def contenders(name: str, side: int) -> Iterable[Contender]:
    """One encoder, random weights, in every runtime, batches of 1 and 8."""
    encoder = build_encoder(name)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, side, side), np.uint8)
    graph = encoder_graph(encoder, side)
    runs: dict[str, Any] = {"eager": lambda batch: encoder(torch.from_numpy(batch))}
    for precision in ("f32", "bf16"):
        run = graph.compile(precision, torch.get_num_threads())
        runs[f"openvino {precision}"] = lambda batch, r=run: r([torch.from_numpy(batch)])
    if all(importlib.util.find_spec(package) for package in ("onnx", "onnxruntime")):
        session = _onnx_session(encoder, pixels)
        runs["onnxruntime"] = lambda batch: session.run(None, {"pixels": batch})
    for runtime, encode in runs.items():
        for count in (1, 8):
            batch = pixels[:count]
            label = f"{name.removeprefix('tf_')} {side} {runtime}, batch {count}"
            yield Contender(label, lambda e=encode, b=batch: e(b), count)


def _onnx_session(encoder: Encoder, pixels: np.ndarray) -> Any:
    import onnxruntime

    file = io.BytesIO()
    dynamic = {"pixels": {0: "n"}, "features": {0: "n"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            encoder,
            (torch.from_numpy(pixels[:1]),),
            file,
            input_names=["pixels"],
            output_names=["features"],
            dynamic_axes=dynamic,
            dynamo=False,
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(file.getvalue(), options)


def main() -> None:
    """Run the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--blip", type=int, default=0, metavar="ROUNDS")
    parser.add_argument("--json", type=Path, default=Path("output/bench/encoding.json"))
    options = parser.parse_args()
    print_environment()
    everyone = [c for name, side in _SHAPES for c in contenders(name, side)]
    with torch.inference_mode():
        timings = interleave(everyone, options.rounds)
        print_table("Encoding, a frame", timings)
        results: dict[str, Any] = {"encoding": timings}
        if options.blip:
            blip = [Contender("BLIP-base size, whole caption, beam 3", blip_base(1, 3, 20))]
            results["blip"] = interleave(blip, options.blip)
            print_table("Instead of all of it, an image", results["blip"])
    write_json(options.json, results)


if __name__ == "__main__":
    main()
