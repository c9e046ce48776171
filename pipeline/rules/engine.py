"""The rule stage: captions in, alert revisions out. Pure text, no thread and no clock of its own.

Durations are measured on each camera's own steady clock (``stamp.time_s``): media time for files,
monotonic time for live cameras. The wall clock decides schedules and names alerts, nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline.messages import Alert, Caption, FrameStamp
from pipeline.rules.judge import Judge
from pipeline.rules.lifecycle import Lifecycle
from pipeline.rules.limits import Limits
from pipeline.rules.places import watches_camera
from pipeline.rules.ruleset import Rule, RuleSet
from pipeline.rules.schema import Zone
from pipeline.rules.track import CameraTrack, Track

__all__ = ["RuleEngine", "RuleState", "utc_now"]

RuleState = dict[str, Any]
"""Snapshot of an engine: JSON-able, camera name to what is remembered of it, and ``*`` to what is
remembered of all cameras together."""

_CODEC = TypeAdapter(CameraTrack)
_IDLE = Track()
_ALL = "*"  # no camera can be called so


def utc_now() -> datetime:
    """Return the wall clock as aware UTC."""
    return datetime.now(timezone.utc)


class RuleEngine:
    """Runs a rule set over the captions of any number of cameras.

    Args:
        rules: What to look for.
        clock: Wall clock for ``detected_at``; injected in tests.
        state: A snapshot to go on from.
        groups: Camera groups of the configuration: group name to camera names or globs.

    """

    def __init__(
        self,
        rules: RuleSet,
        *,
        clock: Callable[[], datetime] = utc_now,
        state: RuleState | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._rules = rules
        self._clock = clock
        self._groups = dict(groups or {})
        self._cameras: dict[str, CameraTrack] = {}
        self._watching: dict[str, tuple[Judge, ...]] = {}
        self._suppressed: Counter[tuple[str, str]] = Counter()
        self._boot = _boot_id()
        self._limits = Limits(rules, self._boot)
        if state is not None:
            self.restore(state)

    def process(self, caption: Caption) -> list[Alert]:
        """Take in one caption and return the alert revisions it causes, in the rules' order."""
        camera = self._camera(caption.stamp)
        alerts: list[Alert] = []
        for judge in self._judges_of(caption.stamp.camera):
            lifecycle, track = self._lifecycle(camera, judge.rule)
            alerts += lifecycle.advance(caption, judge.match(track, caption))
        return alerts

    def tick(self, monotonic_s: float) -> list[Alert]:
        """End alerts of live cameras that have given no caption for too long.

        Args:
            monotonic_s: Now, on the clock of ``FrameStamp.captured_monotonic_ns`` (in seconds).
                Cameras with media time are left alone: their time stands still between captions.

        """
        alerts: list[Alert] = []
        for camera in self._cameras.values():
            if camera.last is None or camera.last.position_s is not None:
                continue
            if camera.boot != self._boot:
                continue  # times of another boot mean nothing until a caption comes
            for lifecycle in self._lifecycles(camera):
                alerts += lifecycle.expire(camera.last, monotonic_s)
        return alerts

    def flush(self, camera: str | None = None) -> list[Alert]:
        """End every open alert (of one camera): its source has come to its end."""
        names = list(self._cameras) if camera is None else [camera]
        alerts: list[Alert] = []
        for name in names:
            known = self._cameras.get(name)
            if known is not None and known.last is not None:
                for lifecycle in self._lifecycles(known):
                    alerts += lifecycle.end(known.last)
        return alerts

    def forget(self, camera: str) -> None:
        """Remember nothing of a camera any more: its recording is over."""
        self._cameras.pop(camera, None)
        self._watching.pop(camera, None)

    def replace_rules(
        self, rules: RuleSet, groups: Mapping[str, Sequence[str]] | None = None
    ) -> list[Alert]:
        """Go on with other rules; alerts of rules that watch a camera no more end here.

        A rule that keeps its name keeps what it remembers: its open alert, cooldown and snooze.
        """
        alerts: list[Alert] = []
        for name, camera in self._cameras.items():
            kept = {rule.spec.name for rule in rules.of_camera(name, dict(groups or {}))}
            for judge in self._judges_of(name):
                rule = judge.rule.spec.name
                if rule not in kept and rule in camera.tracks and camera.last is not None:
                    alerts += self._lifecycle(camera, judge.rule)[0].end(camera.last)
            camera.tracks = {rule: track for rule, track in camera.tracks.items() if rule in kept}
        self._rules, self._groups = rules, dict(groups or {})
        self._limits.replace_rules(rules)
        self._watching.clear()
        return alerts

    def snooze(
        self, camera: str, rule: str, duration_s: float, stamp: FrameStamp | None = None
    ) -> None:
        """Start no alert of a rule on a camera for so long from its last caption on.

        With the ``stamp`` of the caption that comes next, from that one on. It takes the place of
        what was said before: 0 s is the end of a snooze.
        """
        known = (
            self._camera(stamp)
            if stamp is not None
            else self._cameras.setdefault(camera, CameraTrack(boot=self._boot))
        )
        if duration_s <= 0:
            if rule in known.tracks:
                known.tracks[rule].snoozed_until_s = None
            return
        track = known.tracks.setdefault(rule, Track())
        now_s = known.last.time_s if known.last is not None else 0.0
        track.snoozed_until_s = now_s + duration_s

    def suppressed(self) -> dict[tuple[str, str], int]:
        """How many matching captions did not start an alert, by (rule, reason)."""
        return dict(self._suppressed)

    def snapshot(self, camera: str | None = None) -> RuleState:
        """Give all that must survive a restart (of one camera), as JSON-able data.

        It is written with every caption, so rules that have nothing to remember are left out.
        """
        names = list(self._cameras) if camera is None else [camera]
        found = {name: _dumped(self._cameras[name]) for name in names if name in self._cameras}
        return {**found, _ALL: self._limits.snapshot()}

    def live_snapshot(self, camera: str | None = None) -> RuleState:
        """:meth:`snapshot` without recordings, which a later run begins anew."""
        recordings = {
            name for name, known in self._cameras.items()
            if known.last is not None and known.last.position_s is not None
        }  # fmt: skip
        if camera in recordings:
            return {}
        return {n: data for n, data in self.snapshot(camera).items() if n not in recordings}

    def restore(self, state: RuleState) -> None:
        """Go on from a snapshot; cameras that it does not name keep their state.

        Raises:
            ValueError: The snapshot is not one of :meth:`snapshot`'s.

        """
        for name, data in state.items():
            if name == _ALL:
                self._limits.restore(data)
            else:
                self._cameras[name] = _CODEC.validate_python(data)

    def _count(self, rule: str, reason: str) -> None:
        self._suppressed[rule, reason] += 1

    def _camera(self, stamp: FrameStamp) -> CameraTrack:
        """Find what is remembered of a camera, its times moved if its clock began anew."""
        camera = self._cameras.setdefault(stamp.camera, CameraTrack(boot=self._boot))
        last = camera.last
        if last is not None:
            other_boot = stamp.position_s is None and camera.boot != self._boot
            if other_boot or stamp.time_s < last.time_s:
                # Only the wall clock knows how long it was; a backward step counts as no time.
                elapsed_s = max(0.0, (stamp.captured_at - last.captured_at).total_seconds())
                for track in camera.tracks.values():
                    track.shift(stamp.time_s - last.time_s - elapsed_s)
        camera.last, camera.boot = stamp, self._boot
        return camera

    def _judges_of(self, camera: str) -> tuple[Judge, ...]:
        if camera not in self._watching:
            known = {**self._rules.groups, **self._groups}
            self._watching[camera] = tuple(
                Judge(rule, _zones_of(rule, camera, known), self._count)
                for rule in self._rules.of_camera(camera, self._groups)
            )
        return self._watching[camera]

    def _lifecycle(self, camera: CameraTrack, rule: Rule) -> tuple[Lifecycle, Track]:
        track = camera.tracks.setdefault(rule.spec.name, Track())
        version, limits = self._rules.version, self._limits
        return Lifecycle(rule.spec, track, version, self._clock, self._count, limits), track

    def _lifecycles(self, camera: CameraTrack) -> list[Lifecycle]:
        if camera.last is None:
            return []
        rules = [judge.rule for judge in self._judges_of(camera.last.camera)]
        return [
            self._lifecycle(camera, rule)[0] for rule in rules if rule.spec.name in camera.tracks
        ]


def _dumped(camera: CameraTrack) -> Any:
    busy = {name: track for name, track in camera.tracks.items() if track != _IDLE}
    slim = CameraTrack(camera.last, camera.boot, busy)
    return _CODEC.dump_python(slim, mode="json", exclude_defaults=True)


def _zones_of(rule: Rule, camera: str, groups: Mapping[str, Sequence[str]]) -> tuple[Zone, ...]:
    return tuple(zone for zone in rule.zones if watches_camera(zone.cameras, camera, groups))


def _boot_id() -> str:
    """Name this boot of the machine: monotonic times of another boot cannot be compared."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
