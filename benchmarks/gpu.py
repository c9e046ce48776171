"""Everything about a GPU in one short run: python -m benchmarks.gpu --json FILE.

First every runtime's captions are held against plain PyTorch on the CPU, then encoding, decoding,
search at the tutorial's shape and what a user would pick instead are timed. A part that fails is
told with its traceback, and the others still run. Needs of the program only ``models``; no network.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.agreement import Tolerance, compare, reference, synthetic_pictures
from benchmarks.measure import (
    Contender,
    Timing,
    environment,
    interleave,
    print_environment,
    print_wall_table,
    write_json,
)
from benchmarks.peers import blip_base, generate_with_decoder
from benchmarks.tutorial_decoder import (
    BEGIN,
    END,
    FEATURES,
    HIDDEN,
    REGIONS,
    WORDS,
    PlainStep,
    ReplayedStep,
    TutorialDecoder,
    matrix_floor,
    tutorial_search,
)
from models import load_captioner
from models.captioner import Captioner
from models.runtimes.cuda_graph import CudaGraphEngine
from models.runtimes.engine import EagerEngine
from models.runtimes.replays import CudaRecorder, Replays
from models.search import SearchConfig, search

__all__ = ["main"]

_STEPS, _BEAM, _IMAGES = 20, 5, 16
# Convolutions in float32 are TF32 on a GPU, 10 bits of mantissa, unless one forbids it.
_EXACT, _CLOSE = Tolerance(0.98, 0.05), Tolerance(0.9, 0.25)
_TARGETS = {
    "tutorial's way / ours": (">=", 100.0),
    "Hugging Face / ours, both batch 16": (">=", 4.0),
    "ours / matrix products": ("<=", 3.0),
    "ours / matrix products, both replayed": ("<=", 3.0),
    "beam 5 / beam 1": ("<=", 1.5),
    "shipped model, beam 5 / beam 1, batch 16": ("<=", 1.5),
}


@dataclass
class Run:
    """One run: its settings, and what it found so far."""

    device: torch.device
    rounds: int
    batches: Sequence[int]
    pictures: int
    results: dict[str, Any] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Run a part; its failure is kept, told, and ends nothing else."""
        began_s = time.perf_counter()
        try:
            yield
        except Exception:  # noqa: BLE001 - of whatever kind, the other parts must still run
            self.failed[name] = traceback.format_exc()
            print(f"\nFAILED: {name}\n{self.failed[name]}", flush=True)
        print(f"({name}: {time.perf_counter() - began_s:.1f} s)", flush=True)

    def time(self, title: str, contenders: Sequence[Contender]) -> dict[str, Timing]:
        """Time contenders, each round ending when the device has finished; print and keep."""
        sound = [contender for contender in contenders if self._runs(contender)]
        timings = interleave([self._whole(contender) for contender in sound], self.rounds)
        print_wall_table(title, timings)
        self.results[title] = timings
        return timings

    def _runs(self, contender: Contender) -> bool:
        """Try it once, so that one that fails does not take the table with it."""
        with self.part(f"first run of {contender.name}"):
            contender.run()
            self.wait()
            return True
        return False

    def _whole(self, contender: Contender) -> Contender:
        def run() -> None:
            contender.run()
            self.wait()

        return Contender(contender.name, run, contender.items)

    def wait(self) -> None:
        """Wait until the device has done all that was queued."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def runtimes(run: Run) -> dict[str, tuple[Captioner, Tolerance]]:
    """Make a captioner on the device for each runtime there is, with what it may differ by."""
    made: dict[str, tuple[Captioner, Tolerance]] = {}
    name = str(run.device)
    with run.part("build eager float32"):
        made["eager float32"] = load_captioner("default", name, "eager"), _EXACT
    halves = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    for label, precision in halves.items() if run.device.type == "cuda" else ():
        with run.part(f"build eager {label}"):
            captioner = load_captioner("default", name, "eager")
            half = copy.deepcopy(captioner.encoder).to(precision)
            half = half.to(memory_format=torch.channels_last)
            captioner.run_on(EagerEngine(half, captioner.decoder))
            made[f"eager {label}, channels last"] = captioner, _CLOSE
    if run.device.type == "cuda":
        for label, precision in (("float16", torch.float16), ("float32", torch.float32)):
            with run.part(f"build cuda-graph {label}"):
                captioner = load_captioner("default", name, "eager")
                parts = captioner.encoder, captioner.decoder, run.device
                captioner.run_on(CudaGraphEngine(*parts, precision=precision))
                tolerance = _EXACT if precision == torch.float32 else _CLOSE
                made[f"cuda-graph {label}"] = captioner, tolerance
    return made


def agree(run: Run, made: dict[str, tuple[Captioner, Tolerance]]) -> None:
    """Hold every runtime against plain PyTorch on the CPU, in float32."""
    plain = load_captioner("default", "cpu", "eager")
    pictures = synthetic_pictures(run.pictures, plain.input_size)
    rows = run.results.setdefault("agreement", [])
    for beam in (3, 5):
        expected = reference(plain, pictures, beam)
        print(f"\nbeam {beam}: {len({one.text for one in expected[1]})} different captions")
        print(f"{'':32s} cosine   equal max nats   alone max nats  tolerated")
        for name, (captioner, tolerance) in made.items():
            with run.part(f"agreement of {name}, beam {beam}"):
                found = compare(captioner, pictures, beam, expected)
                rows.append({"beam": beam, **found.row(name, tolerance)})
                print(
                    f"{name:32s} {found.cosine:.4f} {found.equal:7.3f} {found.nats:8.4f} "
                    f"{found.alone_equal:7.3f} {found.alone_nats:8.4f}  >= {tolerance.equal}, "
                    f"<= {tolerance.nats}: {'ok' if found.within(tolerance) else 'OUTSIDE'}"
                )


def encode(run: Run, made: dict[str, tuple[Captioner, Tolerance]]) -> None:
    """Time encoding from pixels on the host, beside our encoder alone, its pixels there already."""
    captioners = {name: captioner for name, (captioner, _) in made.items()}
    any_one = next(iter(captioners.values()))
    pictures = synthetic_pictures(max(run.batches), any_one.input_size)
    for batch in run.batches:
        there = torch.from_numpy(pictures[:batch]).permute(0, 3, 1, 2).to(run.device)
        contenders = [
            Contender(name, lambda c=captioner, n=batch: c.encode(pictures[:n]), batch)
            for name, captioner in captioners.items()
        ]
        if run.device.type == "cuda":
            half = copy.deepcopy(any_one.encoder).half().to(memory_format=torch.channels_last)
            alone = [("encoder alone, float16, eager", lambda m=half, p=there: m(p))]
            replays = Replays(lambda pixels, m=half: (m(pixels),), CudaRecorder(run.device))
            alone.append(("encoder alone, float16, replayed", lambda r=replays, p=there: r(p)))
            contenders += [Contender(name, one, batch) for name, one in alone]
        with run.part(f"encode, batch {batch}"):
            run.time(f"encode a frame, batch {batch}", contenders)


def decode(run: Run, made: dict[str, tuple[Captioner, Tolerance]]) -> None:
    """Time captioning windows of five frames whose features are on the device already."""
    names = [name for name in ("eager float32", "cuda-graph float16") if name in made]
    first = made[names[0]][0]
    pictures = synthetic_pictures(20, first.input_size)
    features = list(first.encode(pictures))
    times = [0.4 * k for k in range(5)]
    windows = [(features[i % 16 : i % 16 + 5], times) for i in range(max(run.batches))]
    for batch in run.batches:
        contenders = [
            Contender(
                f"{name}, beam {beam}",
                lambda c=made[name][0], n=batch, b=beam: c.decode(windows[:n], beam_size=b),
                batch,
            )
            for name in names
            for beam in (3, 5)
        ]
        with run.part(f"decode, batch {batch}"):
            run.time(f"caption a window, batch {batch}", contenders)
    with run.part("decode, beam 5 over beam 1"):
        best = made[names[-1]][0]
        timings = run.time(
            "caption a window, batch 16",
            [
                Contender(f"beam {b}", lambda b=b: best.decode(windows[:16], beam_size=b), 16)
                for b in (1, 5)
            ],
        )
        ratio = _least(timings, "beam 5") / _least(timings, "beam 1")
        run.ratios["shipped model, beam 5 / beam 1, batch 16"] = ratio


def tutorial(run: Run) -> None:
    """Search at the tutorial's shape on the same weights, beside the tutorial's way and others."""
    torch.manual_seed(0)
    decoder = TutorialDecoder().eval().to(run.device)
    features = torch.relu(torch.randn(_IMAGES, REGIONS, FEATURES)).to(run.device)
    plain = PlainStep(decoder)
    step = ReplayedStep(decoder) if run.device.type == "cuda" else plain

    def ours(images: int, beam: int, step: PlainStep = step) -> list[list[int]]:
        config = SearchConfig(
            BEGIN, END, beam, max_length=_STEPS, forbidden=(END,), check_every=_STEPS
        )
        found = search(step, step.bind(features[:images]), config)
        return [list(hypotheses[0].tokens) for hypotheses in found]

    theirs = tutorial_search(decoder, features[:4], _BEAM, _STEPS)
    for name, way in (("plain", plain), ("as timed", step)):
        with run.part(f"equal outputs, {name}"):
            same = sum(a == b for a, b in zip(ours(4, _BEAM, way), theirs, strict=True))
            run.results[f"tutorial's shape, equal captions of 4, {name}"] = same
            print(f"tutorial's shape, {name}: {same} of 4 as the tutorial-style search gives")

    def floor() -> None:
        matrix_floor(decoder, features, _BEAM, _STEPS)

    contenders = [
        Contender("ours, batch 16, beam 5", lambda: ours(_IMAGES, _BEAM), _IMAGES),
        Contender("ours, batch 1, beam 5", lambda: ours(1, _BEAM)),
        Contender("ours, batch 16, beam 1", lambda: ours(_IMAGES, 1), _IMAGES),
        Contender("ours, plain, batch 16, beam 5", lambda: ours(_IMAGES, _BEAM, plain), _IMAGES),
        Contender("matrix products alone, batch 16", floor, _IMAGES),
        Contender(
            "tutorial's way, image by image",
            lambda: tutorial_search(decoder, features[:1], _BEAM, _STEPS),
        ),
    ]
    if run.device.type == "cuda":
        replays = Replays(lambda: floor() or (), CudaRecorder(run.device))
        contenders.append(Contender("matrix products, replayed, batch 16", replays, _IMAGES))
    with run.part("build Hugging Face generate"):
        generate, _ = generate_with_decoder(features, WORDS, HIDDEN, 4, _BEAM, _STEPS)
        contenders.append(Contender("Hugging Face generate, batch 16", generate, _IMAGES))
    timings = run.time("search at the tutorial's shape, an image", contenders)
    mine = _least(timings, "ours, batch 16, beam 5")
    for ratio, over, under in (
        ("tutorial's way / ours", _least(timings, "tutorial's way, image by image"), mine),
        (
            "Hugging Face / ours, both batch 16",
            _least(timings, "Hugging Face generate, batch 16"),
            mine,
        ),
        ("ours / matrix products", mine, _least(timings, "matrix products alone, batch 16")),
        (
            "ours / matrix products, both replayed",
            mine,
            _least(timings, "matrix products, replayed, batch 16"),
        ),
        ("beam 5 / beam 1", mine, _least(timings, "ours, batch 16, beam 1")),
    ):
        run.ratios[ratio] = over / under


def instead(run: Run) -> None:
    """Time a model of BLIP-base's size, random weights, in the precision a user would choose."""
    precision = torch.float16 if run.device.type == "cuda" else torch.float32
    contenders = [
        Contender(f"batch {n}", blip_base(n, 3, _STEPS, str(run.device), precision), n)
        for n in (1, 16)
    ]
    run.time("BLIP-base size, whole caption, beam 3, an image", contenders)


def _least(timings: dict[str, Timing], name: str) -> float:
    """Least wall ms of a contender, or NaN where it did not run."""
    return min(timings[name].wall_ms) if name in timings else float("nan")


def print_ratios(run: Run) -> None:
    """Print the ratios with their targets."""
    print(f"\n{'ratio (wall time, least of the rounds)':48s} {'target':>9s} {'got':>9s}")
    for name, (sign, target) in _TARGETS.items():
        got = f"{run.ratios[name]:9.2f}" if name in run.ratios else "   not got"
        print(f"{name:48s} {sign} {target:6.1f} {got:>9s}")


def main() -> None:
    """Run every part, print the tables and write them; the exit code tells of failed parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the program itself")
    parser.add_argument("--quick", action="store_true", help="few pictures, batches and rounds")
    parser.add_argument("--only", nargs="+", metavar="PART", help="run these parts")
    parser.add_argument("--json", type=Path, default=Path("output/bench/gpu.json"))
    options = parser.parse_args()
    quick = options.quick
    run = Run(
        torch.device(options.device),
        rounds=2 if quick else 7,
        batches=(1, 8) if quick else (1, 8, 64, 256),
        pictures=10 if quick else 64,
    )
    print_environment()
    made: dict[str, tuple[Captioner, Tolerance]] = {}

    def build() -> None:
        made.update(runtimes(run))

    parts: dict[str, Callable[[], None]] = {
        "build": build,
        "agreement": lambda: agree(run, made),
        "encode": lambda: encode(run, made),
        "decode": lambda: decode(run, made),
        "tutorial": lambda: tutorial(run),
        "BLIP-base": lambda: instead(run),
    }
    for name, part in parts.items():
        if options.only and name not in ("build", *options.only):
            continue
        with run.part(name), torch.inference_mode():
            part()
        found = {"ratios": run.ratios, "targets": _TARGETS, "failed": run.failed}
        write_json(options.json, {**run.results, **found})
    print_ratios(run)
    print(f"{environment()['device']}: {len(run.failed)} parts failed {list(run.failed)}")
    raise SystemExit(bool(run.failed))


if __name__ == "__main__":
    main()
