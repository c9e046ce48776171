"""Shipped rules on the UCA descriptions of UCF-Crime: recall by category, false alerts per hour.

Every timed sentence becomes a caption at the start of its interval. A video counts as recalled
when a rule whose tags serve its category starts an alert; a false alert is any alert of a hazard
rule started on a normal video. Text only: this measures the rules, not the captioner.

    python -m benchmarks.uca_rules [--split tune|final] [--rules FILE] [--misses CATEGORY]
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from models.training.sources import data_root
from pipeline.messages import Alert, AlertState, Caption, FrameStamp
from pipeline.rules import RuleSet, load_rules, replay

# Tags that serve a category: an alert with one of them tells of the event.
SERVES = {
    "Arson": {"fire", "smoke"},
    "Explosion": {"explosion", "fire", "smoke"},
    "RoadAccidents": {"crash"},
    "Fighting": {"fight"},
    "Assault": {"fight"},
    "Abuse": {"fight"},
    "Shooting": {"shooting", "weapon"},
    "Robbery": {"robbery", "weapon"},
    "Vandalism": {"vandalism"},
}
HAZARDS = {
    *("fire", "smoke", "fight", "crash", "weapon", "shooting", "explosion", "robbery"),
    *("person_down", "vandalism"),
}
START = datetime(2024, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Video:
    """One described video and the alerts that the rules started on it."""

    name: str
    category: str
    duration_s: float
    sentences: tuple[str, ...]
    alerts: tuple[Alert, ...]


def split_of(video: str) -> str:
    """Every third video, by the hash of its name, is kept for the final figure."""
    return "final" if hashlib.sha256(video.encode()).digest()[0] % 3 == 0 else "tune"


def captions_of(row: dict[str, Any]) -> Iterator[Caption]:
    timed = sorted(zip(row["timestamps_s"], row["sentences"], strict=True), key=lambda t: t[0][0])
    for number, ((start_s, _), sentence) in enumerate(timed):
        moment = START + timedelta(seconds=start_s)
        stamp = FrameStamp(row["video"], number, moment, int(start_s * 1e9), start_s)
        yield Caption(stamp, sentence, 0.0)


def load_videos(path: Path, split: str, rules: RuleSet) -> list[Video]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [_video(row, rules) for row in rows if split_of(row["video"]) == split]


def _video(row: dict[str, Any], rules: RuleSet) -> Video:
    alerts = replay(captions_of(row), rules)
    started = tuple(alert for alert in alerts if alert.state is AlertState.STARTED)
    return Video(row["video"], row["category"], row["duration_s"], tuple(row["sentences"]), started)


def is_recalled(video: Video) -> bool:
    return any(SERVES[video.category] & set(alert.tags) for alert in video.alerts)


def report(videos: list[Video]) -> dict[str, Any]:
    normal = [video for video in videos if video.category == "Normal"]
    hours = sum(video.duration_s for video in normal) / 3600
    false = Counter(
        alert.rule for video in normal for alert in video.alerts if HAZARDS & set(alert.tags)
    )
    recall = {}
    for category in SERVES:
        chosen = [video for video in videos if video.category == category]
        found = sum(map(is_recalled, chosen))
        recall[category] = {"videos": len(chosen), "recall": round(found / len(chosen), 3)}
    per_hour = {rule: round(count / hours, 3) for rule, count in false.most_common()}
    return {
        "normal_hours": round(hours, 2),
        "false_per_hour": round(sum(false.values()) / hours, 3),
        "false_per_hour_by_rule": per_hour,
        "recall": recall,
    }


def print_misses(videos: list[Video], category: str) -> None:
    """Print sentences of unrecalled videos, or, for Normal, what raised the false alerts."""
    for video in videos:
        if video.category != category:
            continue
        if category == "Normal":
            for alert in video.alerts:
                if HAZARDS & set(alert.tags):
                    print(f"{alert.rule} [{alert.keywords[0].keyword}] {alert.caption[:300]}")
        elif not is_recalled(video):
            print(f"-- {video.name}")
            print("\n".join(f"   {sentence[:300]}" for sentence in video.sentences[:30]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", choices=("tune", "final"), default="tune")
    parser.add_argument("--rules", default="configs/rules.yaml")
    parser.add_argument("--misses", metavar="CATEGORY")
    options = parser.parse_args()
    if options.misses and options.split == "final":
        parser.error("the final split is for figures only; look at misses in the tune split")
    data = data_root()
    rules = load_rules(options.rules)
    videos = load_videos(data / "uca_text" / "captions.jsonl", options.split, rules)
    if options.misses:
        print_misses(videos, options.misses)
    else:
        print(json.dumps(report(videos), indent=2))


if __name__ == "__main__":
    main()
