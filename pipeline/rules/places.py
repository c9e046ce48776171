"""Which cameras, parts of the picture and times of the week a rule watches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from zoneinfo import ZoneInfo

from pipeline.messages import Region
from pipeline.rules.schema import Schedule, Zone

__all__ = ["in_schedule", "in_zones", "watches_camera"]

_GROUP = "group:"
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SAMPLES = 8  # points per side at which a region's overlap with a zone is measured


def watches_camera(globs: Iterable[str], camera: str, groups: Mapping[str, Sequence[str]]) -> bool:
    """Whether a camera is named by one of the globs or belongs to one of the groups."""
    for glob in globs:
        if glob.startswith(_GROUP):
            members = groups.get(glob.removeprefix(_GROUP), ())
            if any(fnmatchcase(camera, member) for member in members):
                return True
        elif fnmatchcase(camera, glob):
            return True
    return False


def in_schedule(schedules: Sequence[Schedule], at: datetime) -> bool:
    """Whether a rule is active at an (aware) time; without a schedule it always is."""
    return not schedules or any(_active(schedule, at) for schedule in schedules)


def _active(schedule: Schedule, at: datetime) -> bool:
    zone = None if schedule.time_zone is None else ZoneInfo(schedule.time_zone)
    local = at.astimezone(zone)  # None: this machine's
    now = local.time().replace(tzinfo=None)
    today = _DAYS[local.weekday()]
    if schedule.start == schedule.end:
        return today in schedule.days
    if schedule.start < schedule.end:
        return today in schedule.days and schedule.start <= now < schedule.end
    yesterday = _DAYS[(local - timedelta(days=1)).weekday()]
    evening = today in schedule.days and now >= schedule.start
    return evening or (yesterday in schedule.days and now < schedule.end)


def in_zones(region: Region | None, zones: Sequence[Zone]) -> bool:
    """Whether at least half of a region lies in the zones together.

    An unknown region counts as inside: a model without attention must not silence a rule.
    """
    if region is None or not zones:
        return True
    steps = [(index + 0.5) / _SAMPLES for index in range(_SAMPLES)]
    points = [
        (region.x + region.width * u, region.y + region.height * v) for u in steps for v in steps
    ]
    inside = sum(any(_contains(zone.polygon, point) for zone in zones) for point in points)
    return 2 * inside >= len(points)


def _contains(polygon: Sequence[tuple[float, float]], point: tuple[float, float]) -> bool:
    """Even-odd rule: count the edges that a ray to the right crosses."""
    x, y = point
    inside = False
    for (ax, ay), (bx, by) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        if (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay):
            inside = not inside
    return inside
