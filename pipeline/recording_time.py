"""When a recording began: from its name, as cameras and recorders write it, or from the file."""

from __future__ import annotations

import re
from datetime import datetime, timezone, tzinfo
from pathlib import Path

from pipeline.sources import Source

__all__ = ["named_time", "recorded_at"]

_CLOCK = re.compile(
    r"(?<!\d)((?:19|20)\d\d)[-_.]?(\d\d)[-_.]?(\d\d)[-_ T.]?(\d\d)[-_.:]?(\d\d)[-_.:]?(\d\d)"
    r"(?:(Z)(?![A-Za-z0-9])|(?!\d))"
)


def named_time(source: Source, zone: tzinfo | None = None) -> datetime | None:
    """The aware UTC time in a recording's name (``cam1_2026-11-23_06-00-00.mp4``), if there is one.

    ``zone`` is the time zone of the recorder's clock; None: this machine's. A ``Z`` after the time
    says that it is UTC.
    """
    if source.live:
        return None
    for found in _CLOCK.finditer(Path(source.location).stem):
        *digits, utc = found.groups()
        try:
            local = datetime(*(int(part) for part in digits), tzinfo=zone)  # type: ignore[arg-type, misc]
        except ValueError:
            continue  # digits that are no date
        aware = local.replace(tzinfo=timezone.utc) if utc else local
        return aware.astimezone(timezone.utc)
    return None


def recorded_at(source: Source, duration_s: float | None) -> datetime:
    """When a recording without a known time began, aware UTC; a replay finds the same.

    The file's modification time less its duration, since recorders write a file's end last.
    """
    modified_s = Path(source.location).stat().st_mtime - (duration_s or 0.0)
    return datetime.fromtimestamp(modified_s, tz=timezone.utc)
