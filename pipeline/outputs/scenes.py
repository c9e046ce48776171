"""A long recording in few lines: captions gathered into scenes, by day and hour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

from pipeline.outputs.cues import LONGEST_CUE_MS, Cue
from pipeline.outputs.lines import utc_text
from pipeline.outputs.meaning import content_lemmas, says_the_same

__all__ = [
    "MOST_SEEN",
    "Hour",
    "Scene",
    "clock",
    "day",
    "hours",
    "hours_told",
    "moment",
    "scene_json",
    "scenes",
]

_HOUR_MS = 3_600_000
MOST_SEEN = 3
"""An hour is told by so many things, those seen longest."""
_WORDINGS = 100
"""So many wordings of an hour are compared with one another; the others stood for moments only."""
_COMMON = 1 / 3
"""Two captions with so much of their content words in common show the same scene."""


@dataclass(slots=True)
class Scene:
    """What is seen from ``start_ms`` to ``end_ms``; ``shown_ms`` is how long each text stood."""

    start_ms: int
    end_ms: int
    shown_ms: Counter[str] = field(default_factory=Counter)

    @property
    def text(self) -> str:
        """The caption that stood longest; of several the first."""
        return max(self.shown_ms, key=lambda each: self.shown_ms[each])

    def add(self, cue: Cue) -> None:
        """Take in one more caption."""
        self.end_ms = max(self.end_ms, cue.end_ms)
        self.shown_ms[cue.text] += cue.end_ms - cue.start_ms

    def shows(self, cue: Cue) -> bool:
        """Whether a caption belongs to this scene: near in time and in its words."""
        near = cue.start_ms - self.end_ms <= LONGEST_CUE_MS
        return near and _alike(self.text, cue.text)


EntryT = TypeVar("EntryT", bound="Scene | Cue")


def scenes(cues: Sequence[Cue]) -> list[Scene]:
    """Gather one camera's caption cues, in order, into scenes.

    A scene ends where the words change or captions cease. A caption said only once between two
    that belong together is a slip of the model and does not end it.
    """
    found: list[Scene] = []
    for index, cue in enumerate(cues):
        following = cues[index + 1] if index + 1 < len(cues) else None
        if not found or not _goes_on(found[-1], cue, following):
            found.append(Scene(cue.start_ms, cue.start_ms))
        found[-1].add(cue)
    return found


def hours(
    found: Sequence[EntryT], started: datetime | None
) -> Iterator[tuple[str, str, list[EntryT]]]:
    """Yield day, hour and what begins in it; without a clock the day is empty.

    Args:
        found: Scenes and alerts in order.
        started: The aware time of media time zero, where it is known.

    """
    current: tuple[str, str] | None = None
    group: list[EntryT] = []
    for entry in found:
        key = _day_and_hour(entry.start_ms, started)
        if current is not None and key != current:
            yield (*current, group)
            group = []
        current = key
        group.append(entry)
    if current is not None:
        yield (*current, group)


@dataclass(slots=True)
class Hour:
    """One hour in a line: how many scenes were seen in it, and alerts by severity.

    ``day`` is empty where there is no clock, ``first_ms`` the media time of what it begins with,
    ``shown_ms`` how long each scene's text stood.
    """

    day: str
    hour: str
    first_ms: int
    scenes: int = 0
    shown_ms: Counter[str] = field(default_factory=Counter)
    alerts: Counter[str] = field(default_factory=Counter)

    @property
    def mostly(self) -> str:
        """What was seen longest; of several the first. Empty where only alerts are."""
        return next((text for text, _ in self.seen(1)), "")

    def seen(self, most: int) -> list[tuple[str, int]]:
        """What was seen longest and for how many ms; wordings that say the same count as one."""
        together: Counter[str] = Counter()
        for text, shown_ms in self.shown_ms.most_common(_WORDINGS):
            same = next((known for known in together if says_the_same(known, text)), text)
            together[same] += shown_ms
        return together.most_common(most)


def hours_told(
    found: Sequence[Scene], alerts: Sequence[Cue], started: datetime | None
) -> list[Hour]:
    """Sum up each hour in which something was seen or an alert began, in order.

    Unlike in :func:`hours`, a scene that lasts for hours counts in each of them.
    """
    told: dict[tuple[str, str], Hour] = {}
    # Hours of the clock begin so long before media time zero as its minutes say.
    past_ms = 0 if started is None else _past_the_hour_ms(started)

    def hour_at(at_ms: int) -> Hour:
        name = _day_and_hour(at_ms, started)
        hour = told.setdefault(name, Hour(*name, first_ms=at_ms))
        hour.first_ms = min(hour.first_ms, at_ms)
        return hour

    for scene in found:
        at_ms = scene.start_ms
        while at_ms < scene.end_ms:
            hour = hour_at(at_ms)
            ends_ms = ((at_ms + past_ms) // _HOUR_MS + 1) * _HOUR_MS - past_ms
            hour.scenes += 1
            hour.shown_ms[scene.text] += min(scene.end_ms, ends_ms) - at_ms
            at_ms = ends_ms
    for alert in alerts:
        hour_at(alert.start_ms).alerts[alert.severity or ""] += 1
    return sorted(told.values(), key=lambda hour: hour.first_ms)


def _past_the_hour_ms(moment: datetime) -> int:
    return (moment.minute * 60 + moment.second) * 1000 + moment.microsecond // 1000


def scene_json(scene: Scene, started: datetime | None) -> dict[str, Any]:
    """Make a JSON object of a scene; ``time`` is None without a clock."""
    return {
        "start_s": scene.start_ms / 1000,
        "end_s": scene.end_ms / 1000,
        "time": None if started is None else utc_text(moment(scene.start_ms, started)),
        "text": scene.text,
    }


def moment(at_ms: int, started: datetime) -> datetime:
    """When media time ``at_ms`` was, in the zone of ``started`` as its clocks then stood."""
    elapsed = timedelta(milliseconds=at_ms)
    return (started.astimezone(timezone.utc) + elapsed).astimezone(started.tzinfo)


def day(at_ms: int, started: datetime | None = None) -> str:
    """Write the day of a time, as in 2026-11-23; empty where no clock is known."""
    return "" if started is None else moment(at_ms, started).strftime("%Y-%m-%d")


def clock(at_ms: int, started: datetime | None = None) -> str:
    """Write a time as people read it: by the wall clock if it is known, else from the beginning."""
    if started is not None:
        return moment(at_ms, started).strftime("%H:%M:%S")
    minutes, seconds = divmod(at_ms // 1000, 60)
    if minutes < 60:
        return f"{minutes:02d}:{seconds:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _goes_on(scene: Scene, cue: Cue, following: Cue | None) -> bool:
    slip = cue.said == 1 and following is not None and scene.shows(following)
    near = cue.start_ms - scene.end_ms <= LONGEST_CUE_MS
    return scene.shows(cue) or (near and slip)


def _alike(first: str, second: str) -> bool:
    if says_the_same(first, second):
        return True
    one, other = set(content_lemmas(first)), set(content_lemmas(second))
    return bool(one | other) and len(one & other) / len(one | other) >= _COMMON


def _day_and_hour(at_ms: int, started: datetime | None) -> tuple[str, str]:
    if started is None:
        return "", f"hour {at_ms // _HOUR_MS + 1}"
    return day(at_ms, started), moment(at_ms, started).strftime("%H:00")
