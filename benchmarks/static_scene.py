"""What change gating saves: python -m benchmarks.static_scene.

Two programs caption one still, slightly noisy live scene side by side, one with gating and one
without; a third process decodes it and does nothing else. Once both have captions, the CPU time of
all their processes is read from /proc at the ends of some stretches. Decoding is taken off both.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.live import still, tree_cpu_s, watching
from benchmarks.measure import print_environment, write_json
from benchmarks.processes import cpu_s_by_kind
from benchmarks.replay_server import serving
from pipeline.config import CaptureConfig
from pipeline.readers import Grab, open_reader, quiet_libraries
from pipeline.sources import parse_source

__all__ = ["main"]

_UNGATED = {"capture": {"skip_unchanged_below": 0.0}}
_LOOKED_AT = 10  # every so many frames of 25 a second: what the program does at 2.5 a second
_LOOP_S = 5  # the clip is shown again and again
_SETTLE_S = 10.0  # gating begins after five seconds in which nothing has moved
Spent = dict[str, list[float]]
"""CPU milliseconds a second of each contender, one value a stretch."""


def decode_alone(url: str) -> None:
    """Decode a live stream as the program does, and fetch the frames that it would look at."""
    quiet_libraries()
    reader, number = open_reader(parse_source(url), CaptureConfig()), 0
    while reader.grab() is Grab.FRAME:
        if number % _LOOKED_AT == 0:
            reader.retrieve()
        number += 1


def measure(folder: Path, rounds: int, seconds: float) -> tuple[Spent, dict[str, list[int]]]:
    """CPU time of both programs and of decoding, and the programs' captions, by stretch."""
    file = still(folder, _LOOP_S)
    with ExitStack() as stack:
        server = stack.enter_context(serving([file]))
        gated = stack.enter_context(watching(server, file, 1))
        ungated = stack.enter_context(watching(server, file, 1, _UNGATED))
        spawn = multiprocessing.get_context("spawn")
        decoder = spawn.Process(target=decode_alone, args=(server.url(file),), daemon=True)
        decoder.start()
        stack.callback(decoder.terminate)
        programs = {"gated": gated, "ungated": ungated}
        for program in programs.values():
            program.wait_for_captions(1)
        time.sleep(_SETTLE_S)
        assert decoder.pid is not None
        pids = {name: program.process.pid for name, program in programs.items()}
        pids["decoding"] = decoder.pid
        spent: Spent = {name: [] for name in pids}
        captions: dict[str, list[int]] = {name: [] for name in programs}
        kinds = {name: cpu_s_by_kind(pids[name]) for name in programs}
        began_s = time.monotonic()
        for number in range(rounds):
            start_s = time.monotonic()
            before = {name: tree_cpu_s(pid) for name, pid in pids.items()}
            had = {name: program.captions.total() for name, program in programs.items()}
            time.sleep(seconds)
            took_s = time.monotonic() - start_s
            for name, pid in pids.items():
                spent[name].append(1e3 * (tree_cpu_s(pid) - before[name]) / took_s)
            for name, program in programs.items():
                captions[name].append(program.captions.total() - had[name])
            if not decoder.is_alive():
                raise SystemExit("the process that decodes alone has ended")
            told = ", ".join(f"{name} {each_ms[-1]:.0f}" for name, each_ms in spent.items())
            sys.stderr.write(f"stretch {number + 1} of {rounds}: {told} CPU ms a second\n")
        all_s = time.monotonic() - began_s
        for name, before in kinds.items():
            now = cpu_s_by_kind(pids[name])
            parts = {kind: 1e3 * (now[kind] - before.get(kind, 0.0)) / all_s for kind in now}
            told = ", ".join(f"{kind} {ms:.1f}" for kind, ms in parts.items())
            print(f"{name}, CPU ms a second over all stretches: {told}")
    return spent, captions


def main() -> None:
    """Run the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a stretch")
    parser.add_argument("--json", type=Path, default=Path("output/bench/static_scene.json"))
    options = parser.parse_args()
    print_environment()
    with tempfile.TemporaryDirectory() as name:
        spent, captions = measure(Path(name), options.rounds, options.seconds)
    print(f"\nA still scene, CPU ms a second{'':20s} {'least':>8s} {'median':>8s}")
    for name, each_ms in spent.items():
        print(f"{name:50s} {min(each_ms):8.1f} {statistics.median(each_ms):8.1f}")
    together = zip(spent["gated"], spent["ungated"], spent["decoding"], strict=True)
    ratios = [(gated - decoding) / (full - decoding) for gated, full, decoding in together]
    ratio = statistics.median(ratios)
    print(f"captions by stretch: {captions}")
    print(f"gated / ungated, decoding taken off: {', '.join(f'{one:.2f}' for one in ratios)}")
    print(f"median {ratio:.2f}, least {min(ratios):.2f}, most {max(ratios):.2f}")
    found = {"CPU ms a second": spent, "captions": captions, "ratios": ratios}
    write_json(options.json, {**found, "gated / ungated": ratio})


if __name__ == "__main__":
    main()
