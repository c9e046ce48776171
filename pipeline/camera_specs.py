"""From named sources and the configuration to the cameras of a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from pipeline.camera_feed import CameraSpec
from pipeline.config import Config
from pipeline.errors import WrongUse
from pipeline.moments import parse_moment
from pipeline.outputs.terminal import CameraInfo
from pipeline.recording_time import named_time
from pipeline.sources import Source, SourceError, source_bytes

__all__ = ["camera_infos", "camera_specs"]

log = logging.getLogger(__name__)


def camera_specs(
    config: Config, sources: Sequence[tuple[str, Source]], start_time: str | None = None
) -> list[CameraSpec]:
    """Join sources with what the configuration says of their cameras.

    When a recording began is told, first of all, by its camera's configuration; then by the file's
    name; then by ``start_time`` (RFC 3339); and without any of them by the file itself.

    Raises:
        SourceError: A start time is no time.

    """
    specs = []
    by_common: list[str] = []
    for name, source in sources:
        own = config.cameras.get(name)
        capture = config.capture if own is None else config.capture_of(name)
        own_start = None if own is None else own.start_time
        moment = _own_start(name, source, own_start, capture.zone)
        if moment is None and start_time is not None and not source.live:
            moment = _aware("--start-time:", start_time, capture.zone)
            by_common.append(name)
        masks = () if own is None else own.masks
        specs.append(CameraSpec(name, source, capture, moment, masks))
    if start_time is not None:  # a mistake in it is told even where no recording needs it
        _aware("--start-time:", start_time, None)
    if len(by_common) > 1:
        log.warning(
            "--start-time counts for each of the %d recordings whose names tell no time: they are "
            "taken to have begun together; where one follows another, give each its start_time",
            len(by_common),
        )
    return specs


def camera_infos(specs: Sequence[CameraSpec]) -> list[CameraInfo]:
    """What the terminal shows of each camera."""
    return [
        CameraInfo(spec.name, spec.source.display, size_bytes=source_bytes(spec.source))
        for spec in specs
    ]


def _own_start(
    camera: str, source: Source, written: str | None, zone: ZoneInfo | None
) -> datetime | None:
    if source.live:
        return None
    if written is not None:
        return _aware(f"{camera}: start time", written, zone)
    return named_time(source, zone)


def _aware(where: str, text: str, zone: ZoneInfo | None) -> datetime:
    try:
        return parse_moment(text, zone=zone)
    except WrongUse as error:
        raise SourceError(f"{where} {error}") from None
