"""Points in time as people write them, a time or how long ago, and names of time zones."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pipeline.errors import WrongUse

__all__ = ["known_time_zone", "parse_age", "parse_moment"]

_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_S = 100 * 365.25 * 86400


def parse_age(text: str) -> float:
    """Return the seconds of an age or duration: 90s, 15m, 1h, 2d.

    Raises:
        WrongUse: It is none, or longer than a hundred years.

    """
    age = _AGE.fullmatch(text)
    if age is None:
        raise WrongUse(f"{text!r} is not a duration; write it as 90s, 15m, 1h or 2d")
    seconds = float(age[1]) * _SECONDS[age[2]]
    if seconds > _LONGEST_S:
        raise WrongUse(f"{text!r} is more than a hundred years")
    return seconds


def parse_moment(text: str, now: datetime | None = None, zone: tzinfo | None = None) -> datetime:
    """Return an aware time for a time (RFC 3339) or an age (``2h``).

    A time that names no zone is in ``zone``; None: this machine's.

    Raises:
        WrongUse: It is neither.

    """
    if _AGE.fullmatch(text):
        return (now or datetime.now(timezone.utc)) - timedelta(seconds=parse_age(text))
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise WrongUse(
            f"{text!r} is not a time (2026-11-23T06:00:00Z) or an age (90s, 15m, 1h, 2d)"
        ) from None
    if moment.tzinfo is not None:
        return moment
    return moment.astimezone() if zone is None else moment.replace(tzinfo=zone)


def known_time_zone(name: str) -> str:
    """Return the name of a time zone as it is.

    Raises:
        ValueError: The time zone database knows no such name.

    """
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"unknown time zone {name!r}; names look like Europe/Paris") from None
    return name
