"""Kill a run over recordings at random points, resume it, and compare with an unbroken run.

    python -m benchmarks.resume_kills [--kills 50] [--default-batches]

A folder of recordings is captioned once to its end. Then the same command is killed (SIGKILL of
the main process) and started again with ``--resume``, until a start comes to its end; then the
next folder, until so many kills have been done. One kill in five falls while the program starts,
the others once it has given a random number of captions, the last of them while it writes the
report; two folders are worked on side by side. Every file must be the same, byte for byte, as that
of the unbroken run, and Redis must hold each of its events once. Two things alone may differ: when
an event was detected and its number in the store (in the events' file), and the wall time (in
``summary.json``).

One frame at a time goes through the model here. In larger batches the last digit of a probability
depends on which windows were decoded together, and so on the time of day, in any two runs. With
``--default-batches`` the program runs as it does by default; then numbers in the JSONL files may
differ by 0.0001, and everything else must still be the same to the byte.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
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
# On a busy machine a slow captioner would be taken for one that hangs, and its frames be lost.
_PATIENT = "model:\n  answer_timeout_s: 600\n"
_ONE_AT_A_TIME = _PATIENT + "  max_batch_frames: 1\n"
_PASSING_DATA, _PASSING_SUMMARY = ("detected_time", "seq"), ("wall_s", "captions_per_second")


_TOLERANCE = 1e-4
_POLL_S = 0.02
_WRITING_S = 2.0
"""Kills after the last caption fall within this time: while files and report are written."""
_FAST_S = 0.3
"""Kills after another caption fall within this time."""


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

    def add(self, other: Count) -> None:
        """Add what another lane counted."""
        for name in ("kills", "mid_run", "runs", "same", "lost", "duplicates"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.differing += other.differing


@dataclass(frozen=True)
class Unbroken:
    """What an unbroken run gave: files, ids of events, captions, seconds until its first one."""

    files: Mapping[str, str]
    events: frozenset[str]
    captions: int
    start_s: float


@dataclass(frozen=True)
class Command:
    """How the program is started: over which recordings, with whose captions."""

    sources: Mapping[str, Path]
    config: Path
    factory: str = "models:load_captioner"

    def start(self, output: Path, url: str, resume: bool) -> subprocess.Popen[bytes]:
        """Start it; what it says on stderr goes into a file beside ``output``."""
        named = [f"{name}={path}" for name, path in self.sources.items()]
        place = ["--output", str(output), "--redis-url", url, "--format", _FORMATS]
        how = ["--config", str(self.config), "--start-time", "2026-01-02T03:00:00Z", "--quiet"]
        rules = ["--rules", str(_ROOT / "configs" / "demo_rules.yaml")]
        command = [sys.executable, "-c", _DRIVER, self.factory, "run", *named, *place, *how, *rules]
        with _log(output).open("ab") as said:
            return subprocess.Popen(
                [*command, *(["--resume"] if resume else [])],
                cwd=_ROOT,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )


def run(
    command: Command, home: Path, kills: int, seed: int, lanes: int = 1, tolerance: float = 0.0
) -> Count:
    """Kill so often; compare every run that came to its end at last with an unbroken one.

    Args:
        command: What is run.
        home: An empty folder.
        kills: Kills of all lanes together.
        seed: Of the random points.
        lanes: So many folders are worked on side by side.
        tolerance: What numbers in JSONL files may differ by.

    """
    with EmbeddedRedis() as server:
        unbroken = _watch_unbroken(command, home / "unbroken", server.url)
    count = Count(files=len(unbroken.files), events=len(unbroken.events))
    shares = [kills // lanes + (n < kills % lanes) for n in range(lanes)]
    with ThreadPoolExecutor(lanes) as pool:
        each = [
            pool.submit(
                _lane, command, home / f"lane{lane}", share, seed + lane, unbroken, tolerance
            )
            for lane, share in enumerate(shares)
        ]
        for done in each:
            count.add(done.result())
    return count


def _watch_unbroken(command: Command, output: Path, url: str) -> Unbroken:
    begun_s, begun_ns = time.monotonic(), time.time_ns()
    process, start_s = command.start(output, url, resume=False), 0.0
    while process.poll() is None:
        if not start_s and _captions(output, begun_ns):
            start_s = time.monotonic() - begun_s
        time.sleep(_POLL_S)
    _finish(process, output)
    captions = json.loads((output / "summary.json").read_text())["total"]["windows"]["captioned"]
    return Unbroken(_outcome(output), frozenset(streamed_ids(url)), captions, start_s)


def _lane(
    command: Command, home: Path, kills: int, seed: int, unbroken: Unbroken, tolerance: float
) -> Count:
    """One folder after the other, killed and gone on with, until so many kills are done."""
    chance, count = random.Random(seed), Count()
    while count.kills < kills:
        with EmbeddedRedis() as server:
            output = home / f"killed{count.runs}"
            output.mkdir(parents=True)
            process, begun_ns = command.start(output, server.url, resume=False), time.time_ns()
            while count.kills < kills and _killed(process, output, begun_ns, unbroken, chance):
                count.kills += 1
                count.mid_run += _captions(output, begun_ns) > 0
                begun_ns = time.time_ns()
                process = command.start(output, server.url, resume=True)
            _finish(process, output)
            found = Counter(streamed_ids(server.url))
            count.lost += len(unbroken.events - set(found))
            count.duplicates += sum(found.values()) - len(found)
        got, wanted = _outcome(output), unbroken.files
        names = sorted(wanted.keys() | got.keys())
        differing = [
            name for name in names if not _same(name, wanted.get(name), got.get(name), tolerance)
        ]
        count.differing += [f"{home.name}/{output.name}/{name}" for name in differing]
        count.same += not differing
        count.runs += 1
        if not differing:
            shutil.rmtree(output)
        sys.stderr.write(f"{home.name}: {count.kills} kills, {count.same} of {count.runs} same\n")
    return count


def _killed(
    process: subprocess.Popen[bytes],
    output: Path,
    begun_ns: int,
    unbroken: Unbroken,
    chance: random.Random,
) -> bool:
    """Kill it at a random point; False where it has come to its end before."""
    if chance.random() < 0.2:
        wanted, more_s = 0, chance.uniform(0.0, unbroken.start_s)
    else:
        finished = {path.stem for path in output.glob("*.vtt")}
        kept = sum(_lines(output / f"{name}.part") for name in finished)
        left = max(1, unbroken.captions - kept)
        wanted = chance.randint(1, left + 1)
        more_s = chance.uniform(0.0, _WRITING_S if wanted >= left else _FAST_S)
    while process.poll() is None and _captions(output, begun_ns) < wanted:
        time.sleep(_POLL_S)
    try:
        process.wait(more_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def _captions(output: Path, since_ns: int) -> int:
    """How many captions are in the journals that this start has written."""
    count = 0
    for path in output.glob("*.part"):
        with contextlib.suppress(FileNotFoundError):  # the run has just removed it
            if path.stat().st_mtime_ns >= since_ns:
                count += _lines(path)
    return count


def _lines(journal: Path) -> int:
    try:
        return journal.read_bytes().count(b'"kind": "caption"')
    except FileNotFoundError:
        return 0


def _finish(process: subprocess.Popen[bytes], output: Path) -> None:
    if process.wait() != 0:
        said = _log(output).read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the program left with exit code {process.returncode}: {said}")


def _log(output: Path) -> Path:
    return output.with_name(output.name + ".stderr")


def _outcome(output: Path) -> dict[str, str]:
    """Every file that a run has left, but for the store, without what may differ."""
    names = [path for path in output.rglob("*") if ".sqlite3" not in path.name and path.is_file()]
    return {path.name: _lasting(path, output) for path in names}


def _same(name: str, wanted: str | None, got: str | None, tolerance: float) -> bool:
    if wanted == got:
        return True
    if not tolerance or wanted is None or got is None or not name.endswith(".jsonl"):
        return False
    return _near(_records(name, wanted), _records(name, got), tolerance)


def _records(name: str, text: str) -> Any:
    if name.endswith(".events.jsonl"):
        return json.loads(text)
    return [json.loads(line) for line in bytes.fromhex(text).splitlines()]


def _near(one: Any, other: Any, tolerance: float) -> bool:
    """Whether two JSON values are the same but for small differences of numbers."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=0.0, abs_tol=tolerance)
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(_near(one[k], other[k], tolerance) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_near(a, b, tolerance) for a, b in pairs)
    return type(one) is type(other) and bool(one == other)


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
    parser.add_argument("--lanes", type=int, default=2, help="folders worked on side by side")
    parser.add_argument(
        "--default-batches", action="store_true", help="not one frame at a time: see above"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        config = home / "config.yaml"
        config.write_text(_PATIENT if options.default_batches else _ONE_AT_A_TIME)
        sources = {f"c{n}": clip(_CLIPS[n % len(_CLIPS)]) for n in range(_RECORDINGS)}
        command = Command(sources, config)
        tolerance = _TOLERANCE if options.default_batches else 0.0
        begun_s = time.monotonic()
        count = run(command, home, options.kills, options.seed, options.lanes, tolerance)
        wall_s = round(time.monotonic() - begun_s)
    print(json.dumps({**asdict(count), "wall_s": wall_s}))
    return 1 if count.differing or count.lost or count.duplicates else 0


if __name__ == "__main__":
    sys.exit(main())
