"""Kill a run at random points and count what Redis has: python -m benchmarks.outbox_kills.

A child judges a fixed list of captions with the real rule engine, writes to the real store and
publishes to a real server. It is killed (SIGKILL) after a random time and started again on the
same store, until so many kills are done and a last child has come to the end. The ids in the
stream must be those of an unbroken run, each once.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import redis

from pipeline.alerts import EmbeddedRedis, Publisher, RedisSink, encode_alert
from pipeline.config import RedisConfig
from pipeline.messages import Caption, FrameStamp
from pipeline.rules import RuleEngine, RuleSet, load_rules
from pipeline.store import Store

RULES = Path(__file__).parent.parent / "configs" / "rules.yaml"
_BEGIN = datetime(2026, 1, 2, 3, 0, tzinfo=timezone.utc)
_TEXTS = ("a car is on fire", "a man walks a dog", "two men are fighting", "an empty street")
_CAPTION_S = 15.0  # apart: alerts start, are updated and end within a few captions
_LONGEST_LIFE_S = 0.15
_WORK_S = 0.002  # a caption's pretended work, so that kills fall on every kind of moment


@dataclass(frozen=True)
class Count:
    """What the stream held at the end; ``at_work`` kills fell while captions were judged."""

    kills: int
    at_work: int
    expected: int
    found: int
    lost: int
    strange: int
    duplicates: int


def judge(captions: int, store_path: str, url: str | None) -> None:
    """Go on with the captions where the store stands; publish when there is a URL."""
    store = Store(store_path)
    publisher = None if url is None else Publisher(store, RedisSink(RedisConfig(), url))
    if publisher is not None:
        publisher.start()
    engine = RuleEngine(_rules(), state=store.state("rules"))
    for number in range(store.state("position") or 0, captions):
        events = [(encode_alert(alert), b"jpeg") for alert in engine.process(_caption(number))]
        state: dict[str, Any] = {"rules": engine.snapshot(), "position": number + 1}
        store.record(events, state)
        if publisher is not None:
            publisher.wake()
            time.sleep(_WORK_S)
    if publisher is not None and publisher.stop(60.0):
        sys.exit(1)
    store.close()


def run(kills: int, captions: int, seed: int) -> Count:
    """Kill so often, then let a child finish; compare the stream with an unbroken run."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory, EmbeddedRedis() as server:
        unbroken = f"{directory}/unbroken.sqlite3"
        judge(captions, unbroken, None)
        killed = f"{directory}/killed.sqlite3"
        at_work = 0
        for _ in range(kills):
            before = _position(killed)
            _work((captions, killed, server.url), chance.uniform(0.0, _LONGEST_LIFE_S))
            at_work += before < _position(killed) < captions
        if _work((captions, killed, server.url), None) != 0:
            raise RuntimeError("the last child could not publish everything")
        return _compare((kills, at_work), _recorded(unbroken), _streamed(server.url))


def _work(work: tuple[int, str, str], life_s: float | None) -> int | None:
    """Run a child to its end, or kill it after ``life_s``; return its exit code."""
    # Forked, so that the rules (half a second) are loaded once; no thread runs here.
    child = multiprocessing.get_context("fork").Process(target=judge, args=work)
    child.start()
    child.join(life_s)
    if life_s is not None:
        child.kill()
    child.join()
    return child.exitcode


@functools.cache
def _rules() -> RuleSet:
    return load_rules(RULES)


def _position(path: str) -> int:
    store = Store(path)
    position = store.state("position") or 0
    store.close()
    return int(position)


def _caption(number: int) -> Caption:
    position_s = number * _CAPTION_S
    stamp = FrameStamp("door", number, _BEGIN + timedelta(seconds=position_s), 0, position_s)
    return Caption(stamp, _TEXTS[(number // 3) % len(_TEXTS)], -1.0)


def _recorded(path: str) -> set[str]:
    store = Store(path)
    ids = {entry.id for entry in store.pending(limit=1_000_000)}
    store.close()
    return ids


def _streamed(url: str) -> Counter[str]:
    with redis.Redis.from_url(url) as client:
        entries: Any = client.xrange("watchword:alerts")
    return Counter(json.loads(fields[b"event"])["id"] for _, fields in entries)


def _compare(kills: tuple[int, int], expected: set[str], found: Counter[str]) -> Count:
    return Count(
        kills=kills[0],
        at_work=kills[1],
        expected=len(expected),
        found=sum(found.values()),
        lost=len(expected - set(found)),
        strange=len(set(found) - expected),
        duplicates=sum(found.values()) - len(found),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--captions", type=int, help="20 a kill unless said")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    count = run(options.kills, options.captions or 20 * options.kills, options.seed)
    print(json.dumps(asdict(count)))
    return 1 if count.lost or count.strange or count.duplicates else 0


if __name__ == "__main__":
    sys.exit(main())
