"""Kill a run over recordings at random points, resume it, and compare with an unbroken run.

    python -m benchmarks.resume_kills [--kills 50]

A folder of recordings is captioned once to its end. Then the same command is killed (SIGKILL of
the main process) after a random time and started again with ``--resume``, until a start comes to
its end; then the next folder, until so many kills have been done. Every file must be the same,
byte for byte, as that of the unbroken run, and Redis must hold each of its events once. Two things
alone may differ: when an event was detected and its number in the store (in the events' file), and
the wall time (in ``summary.json``).

One frame at a time goes through the model here. In larger batches the last digit of a probability
depends on which frames fell into a batch together, and so on the time of day, in any two runs.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.program import RUN_STREAM, streamed_ids
from benchmarks.real_frames import clip
from pipeline.alerts import EmbeddedRedis

__all__ = ["Command", "Count", "run"]

_ROOT = RUN_STREAM.parent
_CLIPS = ("bikes.mp4", "carphone_pristine.mp4")
_RECORDINGS = 5
_FORMATS = "vtt,srt,jsonl,coco,report"
_DRIVER = "import sys, pipeline.assembly as a; a.CAPTIONER_FACTORY = sys.argv.pop(1); \
import run_stream; run_stream.main()"
_CONFIG = "model:\n  max_batch_frames: 1\n"
_PASSING_DATA, _PASSING_SUMMARY = ("detected_time", "seq"), ("wall_s", "captions_per_second")


@dataclass
class Count:
    """What came out: starts that were killed, those of them after the first caption, and so on."""

    kills: int = 0
    mid_run: int = 0
    runs: int = 0
    same: int = 0
    files: int = 0
    events: int = 0
    lost: int = 0
    duplicates: int = 0
    differing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Command:
    """How the program is started: over which recordings, with whose captions."""

    sources: Mapping[str, Path]
    config: Path
    factory: str = "models:load_captioner"

    def start(self, output: Path, url: str, resume: bool) -> subprocess.Popen[bytes]:
        """Start it, as a process that prints nothing."""
        named = [f"{name}={path}" for name, path in self.sources.items()]
        place = ["--output", str(output), "--redis-url", url, "--format", _FORMATS]
        how = ["--config", str(self.config), "--start-time", "2026-01-02T03:00:00Z", "--quiet"]
        rules = ["--rules", str(_ROOT / "configs" / "demo_rules.yaml")]
        command = [sys.executable, "-c", _DRIVER, self.factory, "run", *named, *place, *how, *rules]
        return subprocess.Popen(
            [*command, *(["--resume"] if resume else [])],
            cwd=_ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def run(command: Command, home: Path, kills: int, seed: int) -> Count:
    """Kill so often; compare every run that came to its end at last with an unbroken one."""
    chance, count = random.Random(seed), Count()
    with EmbeddedRedis() as server:
        begun_s = time.monotonic()
        _finish(command.start(home / "unbroken", server.url, resume=False))
        whole_s = time.monotonic() - begun_s
        wanted, events = _outcome(home / "unbroken"), set(streamed_ids(server.url))
    count.files, count.events = len(wanted), len(events)
    while count.kills < kills:
        with EmbeddedRedis() as server:
            output = home / f"killed{count.runs}"
            process = command.start(output, server.url, resume=False)
            while count.kills < kills and _killed(process, chance.uniform(0.1, 1.1) * whole_s):
                count.kills += 1
                count.mid_run += any(output.glob("*.part")) or any(output.glob("*.vtt"))
                process = command.start(output, server.url, resume=True)
            _finish(process)
            found = Counter(streamed_ids(server.url))
            count.lost += len(events - set(found))
            count.duplicates += sum(found.values()) - len(found)
        got = _outcome(output)
        differing = sorted(n for n in wanted.keys() | got.keys() if wanted.get(n) != got.get(n))
        count.differing += [f"{output.name}/{name}" for name in differing]
        count.same += not differing
        count.runs += 1
        if not differing:
            shutil.rmtree(output)
        sys.stderr.write(f"{count.kills} kills, {count.runs} runs, {count.same} the same\n")
    return count


def _killed(process: subprocess.Popen[bytes], after_s: float) -> bool:
    """Kill it after so long; False where it has come to its end before."""
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def _finish(process: subprocess.Popen[bytes]) -> None:
    if process.wait() != 0:
        raise RuntimeError(f"the program left with exit code {process.returncode}")


def _outcome(output: Path) -> dict[str, str]:
    """Every file that a run has left, but for the store, without what may differ."""
    names = [path for path in output.rglob("*") if ".sqlite3" not in path.name and path.is_file()]
    return {path.name: _lasting(path, output) for path in names}


def _lasting(path: Path, output: Path) -> str:
    if path.name.endswith(".events.jsonl"):
        events = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [{**event, "data": _without(event["data"], _PASSING_DATA)} for event in events]
        return json.dumps(kept)
    if path.name == "summary.json":
        text = json.dumps(_without(json.loads(path.read_text()), _PASSING_SUMMARY))
        return text.replace(str(output), "")
    return path.read_bytes().hex()


def _without(record: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in keys}


def main() -> int:
    """Print the count; exit 1 when a file differs or an event is missing or doubled."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        config = home / "one_at_a_time.yaml"
        config.write_text(_CONFIG)
        sources = {f"c{n}": clip(_CLIPS[n % len(_CLIPS)]) for n in range(_RECORDINGS)}
        count = run(Command(sources, config), home, options.kills, options.seed)
    print(json.dumps(asdict(count)))
    return 1 if count.differing or count.lost or count.duplicates else 0


if __name__ == "__main__":
    sys.exit(main())
