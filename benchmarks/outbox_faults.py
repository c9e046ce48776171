"""Make faults at random points and count what Redis has: python -m benchmarks.outbox_faults.

A child judges a fixed list of captions with the real rule engine, writes to the real store and
publishes to a real server. After a random time one of them meets a fault: the child is killed
(SIGKILL; three in four), the server is killed and started again, or the server hangs (SIGSTOP)
for longer than a call may take. A dead child is started again on the same store, until so many
faults are done and a last child has come to the end. The ids in the stream must be those of an
unbroken run, each once.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from multiprocessing.context import ForkProcess
from pathlib import Path

from benchmarks.program import streamed_ids
from pipeline.alerts import EmbeddedRedis, Publisher, RedisSink, encode_alert
from pipeline.config import RedisConfig
from pipeline.messages import Caption, FrameStamp
from pipeline.rules import RuleEngine, RuleSet, load_rules
from pipeline.rules.stage import STATE_PREFIX
from pipeline.store import Store

RULES = Path(__file__).parent.parent / "configs" / "rules.yaml"
_BEGIN = datetime(2026, 1, 2, 3, 0, tzinfo=timezone.utc)
_TEXTS = ("a car is on fire", "a man walks a dog", "two men are fighting", "an empty street")
_CAPTION_S = 15.0  # apart: alerts start, are updated and end within a few captions
_LONGEST_LIFE_S = 0.3
_REDIS_TIMEOUT_S = 0.3
_HANG_S = 0.5  # longer than a call may take: its answer comes too late
_WORK_S = 0.002  # a caption's pretended work, so that kills fall on every kind of moment


@dataclass(frozen=True)
class Count:
    """What the stream held at the end; ``at_work`` faults fell while captions were judged."""

    faults: int
    child_kills: int
    server_kills: int
    server_hangs: int
    at_work: int
    expected: int
    found: int
    lost: int
    strange: int
    duplicates: int


def judge(captions: int, store_path: str, url: str | None) -> None:
    """Go on with the captions where the store stands; publish when there is a URL."""
    store = Store(store_path)
    publisher = (
        None
        if url is None
        else Publisher(store, RedisSink(RedisConfig(timeout_s=_REDIS_TIMEOUT_S), url))
    )
    if publisher is not None:
        publisher.start()
    engine = RuleEngine(_rules(), state=store.states(STATE_PREFIX))
    for number in range(store.state("position") or 0, captions):
        events = [(encode_alert(alert), b"jpeg") for alert in engine.process(_caption(number))]
        rows = {STATE_PREFIX + name: row for name, row in engine.live_snapshot().items()}
        store.record(events, {**rows, "position": number + 1})
        if publisher is not None:
            publisher.wake()
            time.sleep(_WORK_S)
    if publisher is not None and publisher.stop(60.0):
        sys.exit(1)
    store.close()


def run(faults: int, captions: int, seed: int) -> Count:
    """Make so many faults, then let a child finish; compare the stream with an unbroken run."""
    chance = random.Random(seed)
    done: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as directory, EmbeddedRedis() as server:
        unbroken = f"{directory}/unbroken.sqlite3"
        judge(captions, unbroken, None)
        killed = f"{directory}/killed.sqlite3"
        for _ in range(faults):
            before = _position(killed)
            child = _child(captions, killed, server.url)
            child.join(chance.uniform(0.0, _LONGEST_LIFE_S))
            fault = chance.choices(("child_kill", "server_kill", "server_hang"), (6, 1, 1))[0]
            _make(fault, server)
            child.kill()
            child.join()
            done[fault] += 1
            done["at_work"] += before < _position(killed) < captions
        last = _child(captions, killed, server.url)
        last.join()
        if last.exitcode != 0:
            raise RuntimeError("the last child could not publish everything")
        return _compare(done, _recorded(unbroken), Counter(streamed_ids(server.url)))


def _child(captions: int, store_path: str, url: str) -> ForkProcess:
    """Start a child; forked, so that the rules are loaded once, and no thread runs here."""
    child = multiprocessing.get_context("fork").Process(
        target=judge, args=(captions, store_path, url)
    )
    child.start()
    return child


def _make(fault: str, server: EmbeddedRedis) -> None:
    """Let the server meet its fault while the child works; the child's own comes after."""
    assert server.pid is not None
    if fault == "server_kill":
        os.kill(server.pid, signal.SIGKILL)
        while not server.revive():
            time.sleep(0.01)
    elif fault == "server_hang":
        os.kill(server.pid, signal.SIGSTOP)
        time.sleep(_HANG_S)
        os.kill(server.pid, signal.SIGCONT)
        time.sleep(0.1)


@functools.cache
def _rules() -> RuleSet:
    return load_rules(RULES)


def _position(path: str) -> int:
    store = Store(path)
    position = store.state("position") or 0
    store.close()
    return int(position)


def _caption(number: int) -> Caption:
    seconds = number * _CAPTION_S
    moment = _BEGIN + timedelta(seconds=seconds)
    stamp = FrameStamp("door", number, moment, int(seconds * 1e9))  # of a live camera
    # As sure as a person's sentence: such a one needs no confirmation by others.
    return Caption(stamp, _TEXTS[(number // 3) % len(_TEXTS)], 0.0)


def _recorded(path: str) -> set[str]:
    store = Store(path)
    ids = {entry.id for entry in store.pending(limit=1_000_000)}
    store.close()
    return ids


def _compare(done: Counter[str], expected: set[str], found: Counter[str]) -> Count:
    kinds = (done["child_kill"], done["server_kill"], done["server_hang"])
    return Count(
        sum(kinds),
        *kinds,
        at_work=done["at_work"],
        expected=len(expected),
        found=sum(found.values()),
        lost=len(expected - set(found)),
        strange=len(set(found) - expected),
        duplicates=sum(found.values()) - len(found),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--captions", type=int, help="20 a fault unless said")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # every fault is said, which is right and long
    count = run(options.faults, options.captions or 20 * options.faults, options.seed)
    print(json.dumps(asdict(count)))
    return 1 if count.lost or count.strange or count.duplicates else 0


if __name__ == "__main__":
    sys.exit(main())
