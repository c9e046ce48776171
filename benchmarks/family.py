"""What each kind of decoder, encoder and way to decode costs: python -m benchmarks.family.

Weights are random and captions forced to 12 words, so that only the kind differs. Sizes are the
default configuration's: 2,904 words, five frames of 64 regions of 1,280 numbers, plain PyTorch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import Contender, interleave, print_table, write_json
from models.decoders import Decoder, DecoderConfig
from models.decoding import Decoding, Prepared, Searcher
from models.encoders import build_encoder
from models.runtimes.engine import EagerEngine
from models.vocabulary import END, Vocabulary

_WORDS, _FEATURES, _REGIONS, _FRAMES = 2904, 1280, 64, 5
_CLIPS, _BEAM, _CAPTION_WORDS = 4, 4, 12

DECODERS: dict[str, dict[str, Any]] = {
    "lstm, dot (as shipped)": {},
    "gru, dot": {"cell": "gru"},
    "rnn, dot": {"cell": "rnn"},
    "lstm, dot without gate": {"gate": False},
    "lstm, additive": {"attention": "additive"},
    "lstm, hard": {"attention": "hard"},
    "lstm, adaptive": {"attention": "adaptive"},
    "lstm, concat-step": {"attention": "concat-step"},
    "lstm, concat-start": {"attention": "concat-start"},
    "lstm, dot, latent of 64": {"latent_size": 64},
}

DECODINGS = {
    "beam": Decoding(),
    "one forced word": Decoding(forced_words=("w9",)),
    "two forced words": Decoding(forced_words=("w9", "w8")),
    "diverse, 4 groups": Decoding(diverse_groups=4),
    "nucleus, 5 samples": Decoding(top_p=0.9),
    "consensus of 5 frames": Decoding(consensus="frames"),
}

ENCODERS = {
    "tf_efficientnet_lite2": 256,
    "tf_efficientnet_lite0": 224,
    "torchvision/mobilenet_v3_large": 224,
    "torchvision/efficientnet_b0": 224,
    "torchvision/resnet50": 224,
    "torchvision/vgg16": 224,
    "torchvision/fasterrcnn_mobilenet_v3_large_320_fpn": 320,
}


def build_decoder(options: dict[str, Any]) -> Decoder:
    """Build a decoder of the default sizes with these fields changed."""
    torch.manual_seed(0)
    fields = {"attention": "dot", "concept_count": 454, **options}
    decoder = Decoder(DecoderConfig(_WORDS, _FEATURES, **fields)).eval()
    decoder.output.bias.data[END] = -30.0  # no caption ends before its last word
    return decoder


def captioning(decoder: Decoder, decoding: Decoding) -> Callable[[], object]:
    """Return a function that prepares and decodes four clips."""
    words = ["<pad>", "<begin>", "<end>", "<unknown>", *(f"w{i}" for i in range(_WORDS - 4))]
    engine = EagerEngine(nn.Identity(), decoder)  # type: ignore[arg-type]
    searcher = Searcher(decoder, Vocabulary(words), engine.stepper)
    features = torch.relu(torch.randn(_CLIPS, _FRAMES, _REGIONS, _FEATURES))
    mask = torch.ones(_CLIPS, _FRAMES, dtype=torch.bool)

    @torch.inference_mode()
    def run() -> object:
        ready = Prepared.of(decoder, features, mask)
        return searcher(ready, _BEAM, _CAPTION_WORDS - 1, decoding)

    return run


def encoding(name: str, side: int) -> tuple[int, int, int, Callable[[], Tensor]]:
    """Return parameters, regions and feature size of an encoder, and a run over one picture."""
    torch.manual_seed(0)
    encoder = build_encoder(name)
    pixels = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)

    @torch.inference_mode()
    def run() -> Tensor:
        features: Tensor = encoder(pixels)
        return features

    _, regions, size = run().shape
    return _parameters(encoder), regions, size, run


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.family")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/out/family.json"))
    arguments = parser.parse_args()
    decoders = {name: build_decoder(options) for name, options in DECODERS.items()}
    for name, decoder in decoders.items():
        print(f"{name:44s} {_parameters(decoder) / 1e6:.2f} M parameters")
    kinds = interleave(
        [Contender(n, captioning(d, Decoding()), _CLIPS) for n, d in decoders.items()],
        arguments.rounds,
    )
    print_table("Decoders, a caption (beam 4, 12 words, memory included)", kinds)
    shipped = decoders["lstm, dot (as shipped)"]
    ways = interleave(
        [Contender(n, captioning(shipped, way), _CLIPS) for n, way in DECODINGS.items()],
        arguments.rounds,
    )
    print_table("Ways to decode, a caption", ways)
    pictures = []
    for name, side in ENCODERS.items():
        size, regions, width, run = encoding(name, side)
        print(f"{name:54s} {size / 1e6:.1f} M parameters, {regions} x {width} at {side} pixels")
        pictures.append(Contender(name, run))
    encoders = interleave(pictures, arguments.rounds)
    print_table("Encoders, a picture", encoders)
    write_json(arguments.output, {"decoders": kinds, "decodings": ways, "encoders": encoders})


if __name__ == "__main__":
    main()
