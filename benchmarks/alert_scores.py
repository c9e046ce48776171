"""Alerts against timelines: recall by hazard, delay, false alerts by hour of normal footage."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.timelines import Segment, Timeline

__all__ = ["HAZARD_TAGS", "Started", "score", "started_of", "table"]

HAZARD_TAGS = frozenset(
    {"fire", "smoke", "fight", "crash", "weapon", "shooting", "explosion", "robbery"}
    | {"person_down", "vandalism"}
)
LATE_S = 2.0  # an alert may come so long after its event: the last window reaches back into it


@dataclass(frozen=True, slots=True)
class Started:
    """An alert that started: on which camera, by which rule, when in the recording, on what."""

    camera: str
    rule: str
    tags: frozenset[str]
    media_s: float
    caption: str


def started_of(events: Iterable[Mapping[str, Any]]) -> list[Started]:
    """Alerts of hazard rules that started, from CloudEvents."""
    alerts = [event["data"] for event in events if event["type"] == "watchword.alert.started"]
    found = [
        Started(a["camera"], a["rule"], frozenset(a["tags"]), a["media_time_s"], a["caption"])
        for a in alerts
    ]
    return [alert for alert in found if alert.tags & HAZARD_TAGS]


def score(timelines: Sequence[Timeline], alerts: Sequence[Started]) -> dict[str, Any]:
    """Score the alerts that were raised on timelines.

    An event is found by an alert with its hazard among the tags that starts between the event's
    first frame and `LATE_S` after its last. An alert outside events is false unless its hazard is
    labelled as visible there; one of another hazard inside an event is counted by itself.
    """
    by_camera: dict[str, list[Started]] = defaultdict(list)
    for alert in alerts:
        by_camera[alert.camera].append(alert)
    hazards: dict[str, list[dict[str, Any]]] = defaultdict(list)
    false: dict[bool, list[Started]] = {False: [], True: []}
    others: Counter[str] = Counter()
    for timeline in timelines:
        for alert in by_camera[timeline.name]:
            event = _segment_at(timeline, alert.media_s)
            if alert.tags & event.footage.shows:
                continue
            if event.event:
                others[f"{alert.rule} in {event.event}"] += 1
            else:
                false[timeline.pictures_only].append(alert)
        for hazard, outcome in _outcomes(timeline, by_camera[timeline.name]):
            hazards[hazard].append(outcome)
    return {
        "recall": {hazard: _recall(outcomes) for hazard, outcomes in hazards.items()},
        "normal_video": _false(timelines, false[False], pictures=False),
        "normal_pictures": _false(timelines, false[True], pictures=True),
        "other_alerts_in_events": dict(others),
        "events": dict(hazards),
    }


def _starts(timeline: Timeline) -> Iterable[tuple[float, Segment]]:
    at_s = 0.0
    for segment in timeline.segments:
        yield at_s, segment
        at_s += segment.seconds


def _segment_at(timeline: Timeline, media_s: float) -> Segment:
    """What an alert is about: the event, until `LATE_S` after its last frame, or what is there."""
    at = timeline.segments[0]
    for start_s, segment in _starts(timeline):
        late_s = LATE_S if at.event else 0.0
        if media_s >= start_s + late_s:
            at = segment
    return at


def _outcomes(
    timeline: Timeline, alerts: Sequence[Started]
) -> Iterable[tuple[str, dict[str, Any]]]:
    for start_s, segment in _starts(timeline):
        if segment.event is None:
            continue
        end_s = start_s + segment.seconds + LATE_S
        delays = [
            alert.media_s - start_s
            for alert in alerts
            if segment.event in alert.tags and start_s <= alert.media_s <= end_s
        ]
        yield (
            segment.event,
            {
                "timeline": timeline.name,
                "footage": segment.footage.path.name,
                "start_s": segment.footage.start_s,
                "scene": segment.footage.scene,
                "delay_s": round(min(delays), 2) if delays else None,
            },
        )


def _recall(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    delays = [o["delay_s"] for o in outcomes if o["delay_s"] is not None]
    scenes: dict[str, list[bool]] = defaultdict(list)
    for outcome in outcomes:
        scenes[outcome["scene"]].append(outcome["delay_s"] is not None)
    return {
        "events": len(outcomes),
        "scenes": len(scenes),
        "found": len(delays),
        "recall": round(len(delays) / len(outcomes), 3),
        "recall_scene_mean": round(statistics.mean(map(statistics.mean, scenes.values())), 3),
        "delay_median_s": round(statistics.median(delays), 2) if delays else None,
        "delay_max_s": round(max(delays), 2) if delays else None,
    }


def _false(
    timelines: Sequence[Timeline], alerts: Sequence[Started], *, pictures: bool
) -> dict[str, Any]:
    normal = [
        segment
        for timeline in timelines
        if timeline.pictures_only is pictures
        for segment in timeline.segments
        if segment.event is None
    ]
    played_s = sum(segment.seconds for segment in normal)
    return {
        "sources": len({segment.footage.path for segment in normal}),
        "scenes": len({segment.footage.scene for segment in normal}),
        "played_s": round(played_s, 1),
        "false_alerts": len(alerts),
        "false_alerts_per_hour": round(len(alerts) * 3600 / played_s, 2) if played_s else None,
        "by_rule": dict(Counter(alert.rule for alert in alerts)),
        "alerts": [
            {"timeline": a.camera, "rule": a.rule, "media_s": a.media_s, "caption": a.caption}
            for a in alerts
        ],
    }


def table(report: Mapping[str, Any]) -> str:
    """Markdown of a report."""
    lines = [
        "| hazard | events (scenes) | found | recall | mean over scenes | delay median, max |",
        "|---|---|---|---|---|---|",
    ]
    for hazard, r in report["recall"].items():
        delay = "-" if r["found"] == 0 else f"{r['delay_median_s']} s, {r['delay_max_s']} s"
        lines.append(
            f"| {hazard} | {r['events']} ({r['scenes']}) | {r['found']} | {r['recall']:.2f} | "
            f"{r['recall_scene_mean']:.2f} | {delay} |"
        )
    lines += [
        "",
        "| normal footage | sources (scenes) | played | false alerts | per hour | by rule |",
        "|---|---|---|---|---|---|",
    ]
    for kind in ("normal_video", "normal_pictures"):
        n = report[kind]
        if n["sources"]:
            rules = ", ".join(f"{rule} {count}" for rule, count in n["by_rule"].items()) or "-"
            lines.append(
                f"| {kind.removeprefix('normal_')} | {n['sources']} ({n['scenes']}) | "
                f"{n['played_s']:.0f} s | {n['false_alerts']} | {n['false_alerts_per_hour']:.1f} | "
                f"{rules} |"
            )
    return "\n".join(lines)
