"""``python -m models.training export``: encoder and decoder step as OpenVINO files.

They are for use elsewhere. Watchword itself needs none of them: it builds the same
graphs from the checkpoint when it starts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from models.captioner import Captioner
from models.decoders import DecoderState
from models.fusion import Memory
from models.registry import load_captioner
from models.runtimes.openvino import encoder_graph, step_graph

__all__ = ["export", "main"]


def export(captioner: Captioner, folder: Path) -> list[Path]:
    """Write ``encoder.xml``, ``decoder_step.xml`` (each with its ``.bin``) and ``export.json``.

    ``export.json`` names the checkpoint and the inputs and outputs of both graphs in their order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "encoder.xml", folder / "decoder_step.xml"]
    encoder_graph(captioner.encoder, captioner.input_size).save(files[0])
    step_graph(captioner.decoder).save(files[1])
    state = [f"state.{name}" for name in DecoderState._fields]
    about = {
        "model": captioner.identity,
        "encoder": {"inputs": ["pixels"], "outputs": ["features"]},
        "decoder_step": {
            "inputs": ["tokens", *state, *(f"memory.{name}" for name in Memory._fields)],
            "outputs": ["logits", *state],
        },
    }
    manifest = folder / "export.json"
    manifest.write_text(json.dumps(about, indent=2) + "\n")
    return [*files, manifest]


def main(arguments: Sequence[str]) -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(prog="python -m models.training export")
    parser.add_argument("--model", default="default", help="a shipped name or a checkpoint folder")
    parser.add_argument("--output", type=Path, default=Path("output/export"))
    options = parser.parse_args(arguments)
    captioner = load_captioner(options.model, device="cpu", runtime="eager")
    for file in export(captioner, options.output):
        print(file)
