"""Search beside other ways to search: python -m benchmarks.decoding.

First at the tutorial's shape (196 x 2,048 features, 512 hidden, 9,490 words, 20 forced steps),
then at the shipped model's own. Before anything is timed, outputs that must be equal are compared.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import (
    Contender,
    Timing,
    interleave,
    print_environment,
    print_table,
    write_json,
)
from benchmarks.peers import generate_with_decoder
from benchmarks.tutorial_decoder import (
    BEGIN,
    END,
    FEATURES,
    HIDDEN,
    REGIONS,
    WORDS,
    GraphStep,
    TutorialDecoder,
    matrix_floor,
    tutorial_search,
)
from models import load_captioner
from models.captioner import Captioner
from models.search import SearchConfig, search

__all__ = ["main"]

_STEPS, _BEAM, _BATCH = 20, 5, 16


def tutorial_shape(rounds: int) -> dict[str, Any]:
    """Time the contenders of the first table."""
    torch.manual_seed(0)
    decoder = TutorialDecoder().eval()
    features = torch.relu(torch.randn(_BATCH, REGIONS, FEATURES))
    step = GraphStep(decoder)

    def ours(images: int, beam: int) -> list[list[int]]:
        config = SearchConfig(
            BEGIN, END, beam, max_length=_STEPS, forbidden=(END,), check_every=_STEPS
        )
        found = search(step, step.bind(features[:images]), config)
        return [list(hypotheses[0].tokens) for hypotheses in found]

    with torch.inference_mode():
        assert ours(4, _BEAM) == tutorial_search(decoder, features[:4], _BEAM, _STEPS)
        generate_1, _ = _generate(features[:1])
        generate_16, parameters = _generate(features)
        ours_size = sum(p.numel() for p in decoder.parameters())
        print(f"parameters: tutorial decoder {ours_size:,}, Hugging Face decoder {parameters:,}")
        timings = interleave(
            [
                Contender("ours, batch 16, beam 5", lambda: ours(_BATCH, _BEAM), _BATCH),
                Contender("ours, batch 8, beam 5", lambda: ours(8, _BEAM), 8),
                Contender("ours, batch 1, beam 5", lambda: ours(1, _BEAM)),
                Contender("ours, batch 16, beam 1", lambda: ours(_BATCH, 1), _BATCH),
                Contender(
                    "matrix products alone, batch 16",
                    lambda: matrix_floor(decoder, features, _BEAM, _STEPS),
                    _BATCH,
                ),
                Contender(
                    "tutorial's way, image by image",
                    lambda: tutorial_search(decoder, features[:1], _BEAM, _STEPS),
                ),
                Contender("Hugging Face generate, batch 16", generate_16, _BATCH),
                Contender("Hugging Face generate, batch 1", generate_1),
            ],
            rounds,
        )
    print_table("Search at the tutorial's shape, an image (20 words)", timings)
    least = {name: timing.least_ms for name, timing in timings.items()}
    mine = least["ours, batch 16, beam 5"]
    ratios = {
        "tutorial's way / ours": least["tutorial's way, image by image"] / mine,
        "Hugging Face / ours, both batch 16": least["Hugging Face generate, batch 16"] / mine,
        "ours / matrix products": mine / least["matrix products alone, batch 16"],
        "beam 5 / beam 1": mine / least["ours, batch 16, beam 1"],
    }
    _print_ratios(ratios)
    return {"timings": timings, "ratios": ratios}


def _generate(features: Tensor) -> tuple[Any, int]:
    return generate_with_decoder(features, WORDS, HIDDEN, 4, _BEAM, _STEPS)


def shipped_shape(rounds: int) -> dict[str, Any]:
    """Time the shipped model's own decoder, windows of five frames, captions of its own length."""
    names = ("eager", "openvino", "openvino-int8", "openvino-bf16-int8")
    captioners = {name: load_captioner("default", "cpu", name) for name in names}
    windows = _windows(captioners["eager"], 16)
    beam_3 = {n: _texts(captioners[n], windows) for n in names[:2]}
    assert beam_3["eager"] == beam_3["openvino"]
    contenders = [
        Contender(
            f"{name}, batch {count}, beam {beam}",
            lambda c=captioners[name], w=windows[:count], b=beam: c.decode(w, beam_size=b),
            count,
        )
        for name, count, beam in (
            *(("openvino", 1, 3), ("openvino", 4, 3), ("openvino", 16, 3)),
            *(("openvino", 16, 1), ("openvino", 16, 5), ("eager", 1, 3), ("eager", 16, 3)),
            *((name, count, 3) for name in names[2:] for count in (1, 16)),
        )
    ]
    timings = interleave(contenders, rounds)
    print_table("Decoding with the shipped model, a window of five frames", timings)
    ratios = {
        "beam 5 / beam 1, batch 16": timings["openvino, batch 16, beam 5"].least_ms
        / timings["openvino, batch 16, beam 1"].least_ms,
    }
    _print_ratios(ratios)
    return {"timings": timings, "ratios": ratios}


def _windows(captioner: Captioner, count: int) -> list[tuple[list[Tensor], list[float]]]:
    from benchmarks.real_frames import frames_of

    frames = frames_of("bikes.mp4", count + 4, captioner.input_size, every=10)
    features = captioner.encode(frames)
    times = [0.4 * i for i in range(5)]
    return [(list(features[i : i + 5]), times) for i in range(count)]


def _texts(captioner: Captioner, windows: list[tuple[list[Tensor], list[float]]]) -> list[str]:
    return [hypothesis.text for hypothesis in captioner.decode(windows)]


def _print_ratios(ratios: dict[str, float]) -> None:
    for name, ratio in ratios.items():
        print(f"{name:44s} {ratio:12.2f}")


def main() -> None:
    """Run both tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, default=Path("output/bench/decoding.json"))
    options = parser.parse_args()
    print_environment()
    results: dict[str, dict[str, Timing]] = {
        "tutorial shape": tutorial_shape(options.rounds),
        "shipped shape": shipped_shape(options.rounds),
    }
    write_json(options.json, results)


if __name__ == "__main__":
    main()
