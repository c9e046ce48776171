"""From captions and alerts to subtitle cues: what is on the screen from when to when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.outputs.lines import utc_moment
from pipeline.outputs.meaning import says_the_same

__all__ = ["Cue", "alert_cues", "caption_cues"]

LAST_CUE_MS = 2000
"""How long the last caption stays when nothing tells the usual distance between captions."""
LONGEST_CUE_MS = 10_000
"""A caption is not kept on the screen longer than this past the last frame that said it."""
SHORTEST_ALERT_MS = 3000


@dataclass(frozen=True, slots=True)
class Cue:
    """A text on the screen from ``start_ms`` to ``end_ms`` (exclusive).

    ``severity`` is None for a caption, else the alert's, and ``alert_id`` and ``rule`` its own.
    ``said`` counts the captions merged.
    """

    start_ms: int
    end_ms: int
    text: str
    severity: str | None = None
    said: int = 1
    alert_id: str = ""
    rule: str = ""


@dataclass
class _Open:
    """A caption still on the screen: when it began, when a frame last said it."""

    start_ms: int
    last_ms: int
    texts: dict[str, int]
    latest: str

    def says(self, text: str) -> bool:
        # Beside the latest also the first, so that a slow drift of words ends the cue.
        return says_the_same(self.latest, text) and says_the_same(next(iter(self.texts)), text)

    def add(self, at_ms: int, text: str) -> None:
        self.last_ms, self.latest = at_ms, text
        self.texts[text] = self.texts.get(text, 0) + 1

    def cue(self, end_ms: int) -> Cue:
        # The text said most often that fits all others; the first always does.
        often = sorted(self.texts, key=lambda each: -self.texts[each])
        text = next(t for t in often if all(says_the_same(t, other) for other in self.texts))
        return Cue(self.start_ms, end_ms, text, said=sum(self.texts.values()))


def caption_cues(captions: Iterable[tuple[float, str]]) -> list[Cue]:
    """Merge (time in s, text) pairs of one camera into cues.

    A cue lasts until the next one begins, or until 10 s after its last frame where captions
    ceased for longer. Cues are in order and never overlap. A time that steps back (a stream
    that looped) is moved to just after the caption before it.
    """
    cues: list[Cue] = []
    current: _Open | None = None
    step_ms = LAST_CUE_MS
    for at_s, text in captions:
        at_ms = max(0, round(at_s * 1000))
        if current is None:
            current = _Open(at_ms, at_ms, {text: 1}, text)
            continue
        at_ms = max(at_ms, current.last_ms + 1)
        gap_ms = at_ms - current.last_ms
        if gap_ms <= LONGEST_CUE_MS and current.says(text):
            current.add(at_ms, text)
        else:
            cues.append(current.cue(min(at_ms, current.last_ms + LONGEST_CUE_MS)))
            current = _Open(at_ms, at_ms, {text: 1}, text)
        step_ms = min(gap_ms, LONGEST_CUE_MS)
    if current is not None:
        cues.append(current.cue(current.last_ms + step_ms))
    return cues


def alert_cues(alerts: Iterable[Mapping[str, Any]]) -> list[Cue]:
    """One cue for each alert, from its first frame to its last; at least 3 s long.

    Args:
        alerts: Journal records of alerts: ``at_s`` and the short ``alert`` object.

    """
    cues: dict[str, Cue] = {}
    for record in alerts:
        alert = record["alert"]
        first_s = record["at_s"] - _seconds(alert["first_seen"], alert["time"])
        last_s = record["at_s"] - _seconds(alert["last_seen"], alert["time"])
        start = max(0, round(first_s * 1000))
        end = max(round(last_s * 1000), start + SHORTEST_ALERT_MS)
        text = f"ALERT {alert['rule']} ({alert['severity']}): {alert['caption']}"
        known = cues.get(alert["alert_id"])
        if known is None:
            cues[alert["alert_id"]] = Cue(
                start,
                end,
                text,
                severity=alert["severity"],
                alert_id=alert["alert_id"],
                rule=alert["rule"],
            )
        else:  # later revisions make it longer; what it says stays what raised it
            cues[alert["alert_id"]] = replace(
                known, end_ms=max(known.end_ms, end), said=known.said + 1
            )
    return sorted(cues.values(), key=lambda cue: (cue.start_ms, cue.end_ms))


def _seconds(earlier: str, later: str) -> float:
    return (utc_moment(later) - utc_moment(earlier)).total_seconds()
