"""From named sources and the configuration to the cameras of a run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pipeline.camera_feed import CameraSpec
from pipeline.config import Config
from pipeline.moments import parse_moment
from pipeline.outputs.terminal import CameraInfo
from pipeline.sources import Source, SourceError

__all__ = ["camera_infos", "camera_specs"]


def camera_specs(
    config: Config, sources: Sequence[tuple[str, Source]], start_time: str | None = None
) -> list[CameraSpec]:
    """Join sources with what the configuration says of their cameras.

    ``start_time`` (RFC 3339) is when the recordings began, for those that do not say.

    Raises:
        SourceError: A start time is no time.

    """
    specs = []
    for name, source in sources:
        own = config.cameras.get(name)
        capture = config.capture if own is None else config.capture_of(name)
        start = start_time if own is None or own.start_time is None else own.start_time
        moment = None if start is None else _aware(name, start)
        masks = () if own is None else own.masks
        specs.append(CameraSpec(name, source, capture, moment, masks))
    return specs


def camera_infos(specs: Sequence[CameraSpec]) -> list[CameraInfo]:
    """What the terminal shows of each camera."""
    return [CameraInfo(spec.name, spec.source.display) for spec in specs]


def _aware(camera: str, text: str) -> datetime:
    try:
        return parse_moment(text)
    except ValueError as error:
        raise SourceError(f"{camera}: start time {error}") from None
