"""Train every kind of docs/models.md by one short recipe: python -m benchmarks.family_training.

Each row is ``python -m models.training`` with one or two options of ``configs/train/family.yaml``
changed, then ``python -m models.evaluate`` on Flickr8k's test pictures; so any row can be repeated
by hand. Start it again after a kill: finished rows stand, and a broken one goes on at its last
epoch. Times are of CPU, the first training of each encoder with its feature cache; set
OMP_NUM_THREADS=1 for those of one core.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.family import DECODERS
from benchmarks.measure import environment, write_json
from models.training.config import TrainingConfig
from models.training.sources import data_root

__all__ = ["GROUPS", "Places", "Row", "markdown", "run", "train"]

_EPOCH = re.compile(
    r"epoch (?P<epoch>\d+): train (?P<train>[\d.]+), validation loss (?P<loss>[\d.]+), "
    r"CIDEr-D (?P<cider_d>[\d.]+)(?:, latent (?P<latent_nats>[\d.]+))?"
)
_UNFROZEN = {"frozen_stages": 6}


@dataclass(frozen=True)
class Row:
    """One kind: what it changes in the recipe, and how captions are drawn beside the best."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    draw: str | None = None

    @property
    def slug(self) -> str:
        """A name for files."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


def _draw(changes: dict[str, Any]) -> str | None:
    """Latents where there are some; of the recipe itself the nucleus, to be compared with."""
    if changes.get("latent_size"):
        return "latent"
    return None if changes else "nucleus"


GROUPS = {
    "decoders": [Row(name, changes, _draw(changes)) for name, changes in DECODERS.items()],
    "encoders": [Row("lite0, 224 px", {"encoder": "tf_efficientnet_lite0", "input_size": 224})],
    "tunings": [
        Row(f"tuning {how}", {**_UNFROZEN, "encoder_tuning": how})
        for how in ("batchnorm", "lora", "full")
    ],
}


@dataclass(frozen=True)
class Places:
    """Where things are: recipe, data root, feature caches, runs and results."""

    recipe: Path
    data: Path
    cache: Path
    runs: Path
    output: Path

    def config(self, row: Row) -> dict[str, Any]:
        """The recipe with the row's changes."""
        recipe: dict[str, Any] = yaml.safe_load(self.recipe.read_text())
        return {**recipe, **row.changes}


def run(row: Row, places: Places, beam_size: int) -> dict[str, Any]:
    """Train and evaluate a row, or read what was found of it with the same configuration.

    Raises:
        subprocess.CalledProcessError: A command failed; what it said is on the terminal.

    """
    told = places.config(row)
    file = places.output / f"{row.slug}.json"
    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text())
        if found["config"] == told and found["scores"]["beam_size"] == beam_size:
            return found
    cpu_s = train(row, places)
    folder = places.runs / row.slug
    result = {
        "name": row.name,
        "config": told,
        "epochs": _epochs((folder / "training.log").read_text()),
        "training_cpu_s": cpu_s,
        "scores": _evaluate(row, TrainingConfig(**told), folder, places, beam_size),
        "environment": environment(),
    }
    write_json(file, result)
    return result


def train(row: Row, places: Places) -> float | None:
    """Train a row to its end, where it is not there yet.

    Returns:
        CPU seconds of its training; None where it was broken off and went on.

    Raises:
        subprocess.CalledProcessError: The training failed; what it said is on the terminal.

    """
    folder = places.runs / row.slug
    config_file, end = folder / "config.yaml", folder / "end.json"
    text = yaml.safe_dump(places.config(row))
    if config_file.exists() and config_file.read_text() != text:
        sys.exit(f"{folder} holds a training of another recipe; remove it or name other --runs")
    if not end.exists():
        folder.mkdir(parents=True, exist_ok=True)
        config_file.write_text(text)
        unbroken, before = not (folder / "state.pt").exists(), _children_s()
        _train(config_file, folder, places)
        spent_s = _children_s() - before if unbroken else None
        end.write_text(json.dumps({"training_cpu_s": spent_s}))
    cpu_s: float | None = json.loads(end.read_text())["training_cpu_s"]
    return cpu_s


def _train(config_file: Path, folder: Path, places: Places) -> None:
    """Run the training, and keep what it says."""
    command = [
        *(sys.executable, "-m", "models.training", "--config", str(config_file)),
        *("--data", str(places.data), "--cache", str(places.cache), "--output", str(folder)),
    ]
    with (
        (folder / "training.log").open("a") as log,
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process,
    ):
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            log.write(line)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def _evaluate(
    row: Row, config: TrainingConfig, folder: Path, places: Places, beam_size: int
) -> dict[str, Any]:
    command = [
        *(sys.executable, "-m", "models.evaluate", "--data", "flickr8k-test", "--json"),
        *("--data-root", str(places.data), "--model", str(folder / "checkpoint")),
        *("--features", str(places.cache / config.cache.name), "--beam-size", str(beam_size)),
        *("--captions", str(folder / "captions.jsonl"), "--runtime", "eager"),
        "--without-meteor",
        *(("--draw", row.draw) if row.draw else ()),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    scores: dict[str, Any] = json.loads(done.stdout)
    return scores


def _epochs(log: str) -> list[dict[str, float]]:
    """What a training said after each epoch; of an epoch that was repeated, the last."""
    told = [found.groupdict() for found in _EPOCH.finditer(log)]
    numbers = [{name: float(value) for name, value in of.items() if value} for of in told]
    return list({of["epoch"]: of for of in numbers}.values())


def _children_s() -> float:
    """CPU seconds of children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """Return the table of docs/models.md."""
    lines = [
        "| kind | CIDEr | BLEU-4 | words a caption | different captions "
        "| validation loss, CIDEr-D | training, CPU min |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        scores, last = result["scores"], result["epochs"][-1]
        cpu_s = result["training_cpu_s"]
        minutes = "resumed" if cpu_s is None else f"{cpu_s / 60:.1f}"
        variety = scores["variety"]
        lines.append(
            f"| {result['name']} | {scores['cider']:.3f} | {scores['bleu_4']:.3f} "
            f"| {variety['mean_words']:.1f} | {variety['distinct']:.2f} "
            f"| {last['loss']:.3f}, {last['cider_d']:.3f} | {minutes} |"
        )
    for result in results:
        if drawn := result["scores"].get("drawn"):
            nats = result["epochs"][-1].get("latent_nats")
            latent = "" if nats is None else f" ({nats:.1f} nats a caption in training)"
            lines += [
                "",
                f"{result['scores']['draws']} captions drawn by {result['scores']['draw']}, "
                f"{result['name']}{latent}: {drawn['captions']:.1f} different, "
                f"{drawn['distinct_bigrams']:.2f} of their bigrams different, CIDEr "
                f"{drawn['cider']:.3f} on average and {drawn['best_cider']:.3f} of the best.",
            ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Train and evaluate what was asked for; exit code 1 where a row failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.family_training")
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--rows", nargs="+", help="rows by name, as in the table")
    parser.add_argument("--recipe", type=Path, default=Path("configs/train/family.yaml"))
    parser.add_argument("--data", type=Path, default=data_root())
    parser.add_argument("--cache", type=Path, default=Path(".cache/features"))
    parser.add_argument("--runs", type=Path, default=Path("runs/family"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/out/family_training"))
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument(
        "--trainings-only", action="store_true", help="leave evaluation to a later start"
    )
    arguments = parser.parse_args()
    places = Places(
        *(arguments.recipe, arguments.data, arguments.cache, arguments.runs, arguments.output)
    )
    rows = [row for group in arguments.only for row in GROUPS[group]]
    if arguments.rows:
        if unknown := set(arguments.rows) - {row.name for row in rows}:
            parser.error(f"no row is called {unknown.pop()!r}; {[row.name for row in rows]}")
        rows = [row for row in rows if row.name in arguments.rows]
    results, failed = [], []
    for row in rows:
        try:
            if arguments.trainings_only:
                train(row, places)
                continue
            results.append(run(row, places, arguments.beam_size))
        except subprocess.CalledProcessError as error:
            failed.append(f"{row.name}: exit code {error.returncode}")
            continue
        (places.output / "table.md").write_text(markdown(results))
    if results:
        print(markdown(results))
    for failure in failed:
        print(failure, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
