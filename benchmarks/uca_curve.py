"""Recall against false alerts an hour on UCA: keywords added one by one, surest first.

Descriptions by people have no probability to put a threshold on; what can be chosen is which
words count. The order is learned on the tune split alone (videos found by a keyword against
false alerts it raises on normal video); the same order is then followed on either split. Past
the shipped keywords come loose ones, to show what more recall would cost.

    python -m benchmarks.uca_curve [--split tune|final] [--plot docs/uca_curve.png]

Both splits are always read: tune for the order.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.uca_rules import HAZARDS, SERVES, split_of
from models.training.sources import data_root
from pipeline.rules import load_rules
from pipeline.rules.lexicon import Lexicon, shipped_lexicon
from pipeline.rules.matcher import TextMatcher
from pipeline.rules.schema import RuleSpec

# By rule: words too weak to ship.
LOOSE = {
    "crash": ("vehicle ... stop suddenly", "person ... lie ... road", "vehicle ... rush", "brake",
              "help ... up", "vehicle ... turn over", "gather ... vehicle", "run to ... person"),
    "fight": ("push", "pull", "drag", "chase", "throw", "argue|dispute", "kick", "hit", "fall to",
              "gather"),
    "robbery": ("take ... away", "money", "run away", "run out", "cash register", "squat|kneel",
                "put ... into ... bag|pocket", "raise ... hand", "helmet", "hood|hoodie", "pocket"),
    "shooting": ("shot", "hide", "flee", "run away", "fall to the ground", "lie ... ground"),
    "fire": ("=light", "spark", "pour", "gasoline"),
}  # fmt: skip
CHOSEN = ("RoadAccidents", "Arson", "Fighting", "Assault", "Shooting", "Robbery")
MATCH_ENDS_S, COOLDOWN_S = 10.0, 60.0  # the defaults of a rule, which the hazard rules keep

Word = tuple[str, str]
"""A rule's name and one of its keywords."""


@dataclass(frozen=True, slots=True)
class Described:
    """A video: its category, its length, and when each word was found in it, in seconds."""

    category: str
    duration_s: float
    found: dict[Word, tuple[float, ...]]


def matchers(path: str) -> tuple[dict[str, TextMatcher], dict[Word, frozenset[str]]]:
    """One matcher a keyword would be slow; one a rule, widened by its loose words, tells all."""
    lexicon = Lexicon.of([shipped_lexicon()])
    by_rule: dict[str, TextMatcher] = {}
    tags: dict[Word, frozenset[str]] = {}
    for rule in load_rules(path).rules:
        spec: RuleSpec = rule.spec
        if not HAZARDS & set(spec.tags):
            continue
        words = (*spec.keywords, *LOOSE.get(spec.name, ()))
        by_rule[spec.name] = TextMatcher(spec.model_copy(update={"keywords": words}), lexicon)
        tags |= {(spec.name, word): frozenset(spec.tags) for word in words}
    return by_rule, tags


def describe(row: dict[str, Any], by_rule: dict[str, TextMatcher]) -> Described:
    found: dict[Word, list[float]] = {}
    timed = sorted(zip(row["timestamps_s"], row["sentences"], strict=True), key=lambda t: t[0][0])
    for (start_s, _), sentence in timed:
        for rule, matcher in by_rule.items():
            for keyword in {hit.keyword for hit in matcher.match(sentence).hits}:
                found.setdefault((rule, keyword), []).append(start_s)
    return Described(row["category"], row["duration_s"], {w: tuple(t) for w, t in found.items()})


def alerts(times: Sequence[float]) -> int:
    """How many alerts one rule starts on matches at these times."""
    count, last_s = 0, float("-inf")
    for time_s in sorted(times):
        count += time_s - last_s > max(MATCH_ENDS_S, COOLDOWN_S)
        last_s = time_s
    return count


def serves(video: Described, word: Word, tags: dict[Word, frozenset[str]]) -> bool:
    return bool(SERVES.get(video.category, set()) & tags[word])


def order(videos: Sequence[Described], tags: dict[Word, frozenset[str]]) -> list[Word]:
    """Words by videos they find for a false alert they cost; those that find nothing left out."""
    gain, cost = dict.fromkeys(tags, 0), dict.fromkeys(tags, 0)
    for video in videos:
        for word, times in video.found.items():
            gain[word] += serves(video, word, tags)
            cost[word] += alerts(times) if video.category == "Normal" else 0
    useful = [word for word in tags if gain[word]]
    return sorted(useful, key=lambda word: (-gain[word] / (cost[word] + 0.5), word))


def measured(
    videos: Sequence[Described], chosen: set[Word], tags: dict[Word, frozenset[str]]
) -> dict[str, Any]:
    """Recall by category and false alerts an hour when these words count."""
    hours = sum(v.duration_s for v in videos if v.category == "Normal") / 3600
    by_category = {
        category: recall([v for v in videos if v.category == category], chosen, tags)
        for category in CHOSEN
    }
    return {
        "words": len(chosen),
        "false_per_hour": false_alerts(videos, chosen) / hours,
        **by_category,
    }


def false_alerts(videos: Sequence[Described], chosen: set[Word]) -> int:
    total = 0
    for video in videos:
        if video.category != "Normal" or not video.found:
            continue
        by_rule: dict[str, list[float]] = {}
        for word in chosen & video.found.keys():
            by_rule.setdefault(word[0], []).extend(video.found[word])
        total += sum(alerts(times) for times in by_rule.values())
    return total


def recall(
    videos: Sequence[Described], chosen: set[Word], tags: dict[Word, frozenset[str]]
) -> float:
    found = sum(any(serves(v, w, tags) for w in chosen & v.found.keys()) for v in videos)
    return found / len(videos)


def thinned(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Points at which the rate passes another tenth of an alert an hour, and the last."""
    kept, passed = [], -1
    for point in points:
        tenth = int(point["false_per_hour"] * 10)
        if tenth > passed:
            kept.append(point)
            passed = tenth
    return [*kept, points[-1]] if points[-1] is not kept[-1] else kept


def draw(points: Sequence[dict[str, Any]], shipped: dict[str, Any], title: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(
        xlabel="false alerts an hour of normal video", ylabel="share of videos with an alert",
        xlim=(0, 4), ylim=(0.3, 1.01), title=title,
    )  # fmt: skip
    for category in CHOSEN:
        (line,) = axes.plot(
            [p["false_per_hour"] for p in points], [p[category] for p in points], label=category
        )
        axes.plot(
            shipped["false_per_hour"], shipped[category], "o", color=line.get_color(), markersize=4
        )
    axes.axvline(2.0, color="grey", linestyle=":")
    axes.legend(loc="lower right", fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", choices=("tune", "final"), default="tune")
    parser.add_argument("--rules", default="configs/rules.yaml")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    path = data_root() / "uca_text/captions.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    by_rule, tags = matchers(options.rules)
    splits: dict[str, list[Described]] = {"tune": [], "final": []}
    for row in rows:
        split = split_of(row["video"])
        if split in ("tune", options.split):
            splits[split].append(describe(row, by_rule))
    words = order(splits["tune"], tags)
    loose = {(rule, word) for rule, found in LOOSE.items() for word in found}
    for split, videos in splits.items():
        if not videos:
            continue
        points = [measured(videos, set(words[:count]), tags) for count in range(1, len(words) + 1)]
        shipped = measured(videos, tags.keys() - loose, tags)
        print(json.dumps({"split": split, "shipped": shipped, "curve": thinned(points)}))
        if options.plot is not None and split == options.split:
            draw(points, shipped, f"UCA descriptions, {split} split", options.plot)


if __name__ == "__main__":
    main()
