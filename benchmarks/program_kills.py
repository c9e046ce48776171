"""Kill the whole program at random points and count what Redis has.

    python -m benchmarks.program_kills [--kills 20]

Two recordings with a given start time are watched to their end once; that run's events are the
measure. Then the same command is killed (SIGKILL of the main process) and run again on the same
store and the same Redis, so many times, and at last left to come to its end. One kill in five falls
while it starts, the others once it has given a random number of captions, fewer than in the end:
a time would fall after the end where the machine is less busy than it was for the measure.
Every event of the unbroken run must be in the stream once. What a killed run leaves behind is
counted too: processes of its own, and segments of shared memory.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.program import RUN_STREAM, streamed_ids
from benchmarks.real_frames import clip
from pipeline.alerts import EmbeddedRedis

_RULES = RUN_STREAM.parent / "configs" / "demo_rules.yaml"
_CLIPS = {"street": "bikes.mp4", "car": "carphone_pristine.mp4"}
_BETWEEN_CAPTIONS_S = 0.2
_LEFT_WITHIN_S = 5.0
"""Children see that their parent is gone within this time."""


@dataclass(frozen=True)
class Count:
    """What the stream held at the end; ``mid_run`` kills fell after the first caption."""

    kills: int
    mid_run: int
    expected: int
    found: int
    lost: int
    strange: int
    duplicates: int
    processes_left: int
    segments_left: int


def run(kills: int, seed: int) -> Count:
    """Kill so often, then let the program finish; compare with an unbroken run."""
    chance = random.Random(seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedRedis() as measure,
        EmbeddedRedis() as real,
    ):
        home = Path(folder)
        start_s, captions = _unbroken(home / "unbroken", measure.url)
        mid_run = left = segments = 0
        for number in range(1, kills + 1):
            process = _start(home / "killed", real.url)
            if number % 5 == 0:
                time.sleep(chance.uniform(0.0, start_s))
            else:
                _wait_for_captions(process, home / "killed", chance.randrange(1, captions))
                time.sleep(chance.uniform(0.0, _BETWEEN_CAPTIONS_S))
            killed, family = _kill(process)
            mid_run += killed and _captions(home / "killed") > 0
            still_there = _still_there(family)
            left += len(still_there)
            for line in still_there:
                sys.stderr.write(f"still there {_LEFT_WITHIN_S:g} s after a kill: {line}\n")
            segments += len(_segments(process.pid))
            sys.stderr.write(f"kill {number} of {kills}, {mid_run} in the middle of the work\n")
        _finish(_start(home / "killed", real.url), home / "killed")
        expected, found = set(streamed_ids(measure.url)), Counter(streamed_ids(real.url))
        return Count(
            kills=kills,
            mid_run=mid_run,
            expected=len(expected),
            found=sum(found.values()),
            lost=len(expected - set(found)),
            strange=len(set(found) - expected),
            duplicates=sum(found.values()) - len(found),
            processes_left=left,
            segments_left=segments,
        )


def _start(output: Path, url: str) -> subprocess.Popen[str]:
    """Start the program; what it prints lies beside ``output``: ``….out`` and ``….err``."""
    sources = [f"{name}={clip(file)}" for name, file in _CLIPS.items()]
    command = [sys.executable, str(RUN_STREAM), "run", *sources, "--json", "--rules", str(_RULES)]
    place = ["--output", str(output), "--redis-url", url, "--start-time", "2026-01-02T03:00:00Z"]
    with output.with_suffix(".out").open("w") as out, output.with_suffix(".err").open("w") as err:
        return subprocess.Popen([*command, *place], stdout=out, stderr=err, text=True)


def _unbroken(output: Path, url: str) -> tuple[float, int]:
    """Let it come to its end; seconds to its first caption, and how many captions it gave."""
    begun_s = time.monotonic()
    process = _start(output, url)
    _wait_for_captions(process, output, 1)
    start_s = time.monotonic() - begun_s
    _finish(process, output)
    return start_s, _captions(output)


def _finish(process: subprocess.Popen[str], output: Path) -> None:
    if process.wait() != 0:
        said = output.with_suffix(".err").read_text()[-2000:]
        raise RuntimeError(f"the program left with exit code {process.returncode}: {said}")


def _wait_for_captions(process: subprocess.Popen[str], output: Path, count: int) -> None:
    while _captions(output) < count and process.poll() is None:
        time.sleep(0.01)


def _captions(output: Path) -> int:
    return output.with_suffix(".out").read_text().count('"type": "caption"')


def _kill(process: subprocess.Popen[str]) -> tuple[bool, dict[int, str]]:
    """Kill it, unless it has come to its end; whether it was killed, and its descendants."""
    if process.poll() is not None:
        return False, {}
    family = _descendants(process.pid)
    process.kill()
    return process.wait() < 0, family


def _still_there(family: dict[int, str]) -> list[str]:
    """Command lines of those of these processes that live on after the time they are given."""
    deadline_s = time.monotonic() + _LEFT_WITHIN_S
    while True:
        now = {pid: begun for pid, (_, begun) in _processes().items()}
        left = [pid for pid, begun in family.items() if now.get(pid) == begun]
        if not left or time.monotonic() > deadline_s:
            return [_command_line(pid) for pid in left]
        time.sleep(0.1)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return f"process {pid}, which has just ended"


def _descendants(pid: int) -> dict[int, str]:
    """Process ids below ``pid`` with their start times, which tell a reused id."""
    processes = _processes()
    family = {pid}
    while more := {p for p, (parent, _) in processes.items() if parent in family} - family:
        family |= more
    return {member: processes[member][1] for member in family - {pid}}


def _processes() -> dict[int, tuple[int, str]]:
    """Parent and start time of every process that is no zombie."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it has ended meanwhile
        if fields[0] != "Z":
            found[int(path.parent.name)] = (int(fields[1]), fields[19])
    return found


def _segments(pid: int) -> list[Path]:
    """Shared memory that a program with this id has made; where it is files (Linux)."""
    return list(Path("/dev/shm").glob(f"ww{pid}-*"))


def main() -> int:
    """Print the count; exit 1 when an event is missing or doubled."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    count = run(options.kills, options.seed)
    print(json.dumps(asdict(count)))
    return 1 if count.lost or count.duplicates else 0


if __name__ == "__main__":
    sys.exit(main())
