"""How long a search over many stored captions takes.

    python -m benchmarks.archive_search --captions ../shared/data/flickr8k/captions.jsonl

The captions are drawn from the file's, over 32 cameras, eight a second; the queries are common and
rare words, phrases, prefixes and exclusions, each over all cameras, one, a glob, and two hours.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np

from pipeline.messages import Caption, FrameStamp
from pipeline.store import Archive, SearchQuery, Store

_START = datetime(2026, 1, 1, tzinfo=timezone.utc)
_LIMIT = 80
"""As many captions as the command looks up for its twenty moments."""
_CAMERAS, _PER_SECOND, _AT_ONCE = 32, 8, 5000
_WORDS = (
    "man", "a man", "the", "dog", "fire", "fire OR flames", "motor*", "child*", '"red shirt"',
    "two men fighting", "dog -grass", "bicycle street", "person lying ground", "unicorn",
)  # fmt: skip


def main() -> None:
    """Fill a store, search it, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=Path, required=True, help="JSONL with `captions` lists")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with given.captions.open(encoding="utf-8") as file:
        texts = [text for line in file for text in json.loads(line)["captions"]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.sqlite3"
        began_s = time.perf_counter()
        _fill(path, texts, given.count)
        filled_s = time.perf_counter() - began_s
        took_ms = _search_all(path, given.rounds, given.count)
        size_mb = path.stat().st_size / 1e6
    print(
        json.dumps(
            {
                "captions": given.count,
                "store_mb": round(size_mb),
                "fill_s": round(filled_s, 1),
                "queries": len(took_ms),
                "p50_ms": round(float(np.percentile(took_ms, 50)), 1),
                "p95_ms": round(float(np.percentile(took_ms, 95)), 1),
                "max_ms": round(max(took_ms), 1),
            }
        )
    )


def _fill(path: Path, texts: list[str], count: int) -> None:
    chance = random.Random(0)
    store = Store(path)
    try:
        for first in range(0, count, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, count))
            store.record(captions=[_caption(n, chance.choice(texts)) for n in numbers])
    finally:
        store.close()


def _caption(number: int, text: str) -> Caption:
    at_s = number / _PER_SECOND
    moment = _START + timedelta(seconds=at_s)
    return Caption(FrameStamp(f"cam-{number % _CAMERAS}", number, moment, 0, at_s), text, -1.0)


def _search_all(path: Path, rounds: int, count: int) -> list[float]:
    """Every time of every query in ms, and the slowest on stderr."""
    took: list[tuple[float, SearchQuery]] = []
    archive = Archive(path)
    try:
        for query in _queries(count):
            for _ in range(rounds):
                began_s = time.perf_counter()
                archive.search(query)
                took.append((1000 * (time.perf_counter() - began_s), query))
    finally:
        archive.close()
    for milliseconds, query in sorted(took, key=lambda each: -each[0])[:5]:
        sys.stderr.write(f"{milliseconds:.1f} ms {query}\n")
    return [milliseconds for milliseconds, _ in took]


def _queries(count: int) -> Iterator[SearchQuery]:
    middle = _START + timedelta(seconds=count / _PER_SECOND / 2)
    for text in _WORDS:
        yield SearchQuery(text, limit=_LIMIT)
        yield SearchQuery(text, camera="cam-3", limit=_LIMIT)
        yield SearchQuery(text, camera="cam-1*", limit=_LIMIT)
        two_hours = middle + timedelta(hours=2)
        yield SearchQuery(text, since=middle, until=two_hours, limit=_LIMIT)


if __name__ == "__main__":
    main()
