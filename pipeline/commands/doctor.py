"""``doctor``: whether this machine can watch, and what to do where it cannot."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from redis import RedisError

from pipeline.alerts import EmbeddedRedis
from pipeline.alerts.redis_client import connect
from pipeline.alerts.server import EmbeddedRedisError
from pipeline.assembly import CAPTIONER_FACTORY
from pipeline.captioner import CaptionerError
from pipeline.capture import live_slots
from pipeline.commands.common import SHIPPED_RULES, ExitCode, WrongUse
from pipeline.commands.run import merged
from pipeline.config import Config, load_config
from pipeline.outputs.lines import to_json_line
from pipeline.redaction import redact, redact_url
from pipeline.rules import load_rules
from pipeline.services import start_captioner
from pipeline.slots import SharedMemoryFull, SlotLayout, fitting_slots, shared_room_bytes
from pipeline.store import Store, StoreError

__all__ = ["doctor"]


_LEAST_FREE_GB = 0.5
"""With less, days of captions and files end in a full disk."""


@dataclass(frozen=True, slots=True)
class _Finding:
    what: str
    good: bool
    says: str


_SQUARE_PIXELS = 384
"""The largest square that an encoder of ours sees."""


class _Ill(Exception):
    """One sentence: what does not work and what to do."""


_TOLD = (_Ill, StoreError, EmbeddedRedisError, CaptionerError, SharedMemoryFull)


def doctor(
    config: Annotated[Path | None, typer.Option(help="A configuration file.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Your Redis; else our own.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Try decoder, store, Redis and model on this machine, with a configuration or without.

    Example: watchword doctor --config site.yaml
    """
    loaded = Config() if config is None else load_config(config)
    settings = merged(loaded, {"redis": {"url": redis_url}})
    tries: dict[str, Callable[[Config], str]] = {
        "decoder": _decoder, "memory": _memory, "store": _store,
        "redis": _redis, "model": _model, "player": _player,
    }  # fmt: skip
    all_good = True
    for what, attempt in tries.items():
        finding = _try(what, attempt, settings)
        all_good &= finding.good
        _print(finding, json)
    raise typer.Exit(ExitCode.DONE if all_good else ExitCode.FAILED)


def _try(what: str, attempt: Callable[[Config], str], settings: Config) -> _Finding:
    try:
        return _Finding(what, True, attempt(settings))
    except (*_TOLD, RedisError, WrongUse) as error:
        return _Finding(what, False, redact(str(error)))


def _print(finding: _Finding, as_json: bool) -> None:
    if as_json:
        record = {"what": finding.what, "good": finding.good, "says": finding.says}
        sys.stdout.write(to_json_line(record))
    else:
        print(f"{'good' if finding.good else 'BAD '}  {finding.what:8} {finding.says}")
    sys.stdout.flush()


def _decoder(settings: Config) -> str:
    """Write a video of one grey and read it back."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "try.avi")
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48))
        writer.write(np.full((48, 64, 3), 90, np.uint8))
        writer.release()
        capture = cv2.VideoCapture(path)
        read, frame = capture.read()
        capture.release()
    if not read or abs(float(np.mean(frame)) - 90) > 10:
        raise _Ill("OpenCV cannot read a video it wrote; reinstall opencv-python")
    ffmpeg = "FFMPEG:                      YES" in cv2.getBuildInformation()
    if not ffmpeg:
        raise _Ill("OpenCV is built without FFmpeg: no RTSP; install opencv-python by pip")
    return f"OpenCV {cv2.__version__} with FFmpeg reads video; {_key_frame_reader(settings)}"


def _key_frame_reader(settings: Config) -> str:
    """PyAV, which ``key_frames_only`` needs and nothing else."""
    if importlib.util.find_spec("av") is not None:
        return f"PyAV {importlib.metadata.version('av')} reads key frames alone"
    captures = [settings.capture, *map(settings.capture_of, settings.cameras)]
    if any(capture.key_frames_only for capture in captures):
        raise _Ill("key_frames_only needs PyAV; pip install 'watchword[keyframes]'")
    return "no PyAV, and no need of it"


def _store(settings: Config) -> str:
    """Try a store beside the configured one, which may be that of a run that goes on."""
    place = Path(settings.store.path).absolute().parent
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            Store(Path(folder) / "try.sqlite3").close()
        free_gb = shutil.disk_usage(place).free / 1e9
    except OSError as error:
        raise _Ill(f"{place} cannot be written: {error.strerror}; set store.path") from None
    if free_gb < _LEAST_FREE_GB:
        raise _Ill(f"{place} has only {free_gb:.2f} GB free; make room there, or set store.path")
    return f"{place} can be written, {free_gb:.1f} GB free"


def _memory(settings: Config) -> str:
    """Whether the pictures of all configured cameras fit into shared memory."""
    room_bytes = shared_room_bytes()
    if room_bytes is None:
        return "shared memory has no limit of its own here"
    promised = 0
    captures = [settings.capture_of(camera) for camera in settings.cameras]
    for capture in captures or [settings.capture]:
        slots = live_slots(capture)
        layout = SlotLayout("", slots, _SQUARE_PIXELS, capture.preview_pixels)
        fitting_slots(layout, slots, promised)
        promised += slots * layout.slot_bytes
    return (
        f"{room_bytes / 1e6:.0f} MB of shared memory are free, at most {promised / 1e6:.0f} needed"
    )


def _redis(settings: Config) -> str:
    if settings.redis.url is not None:
        client = connect(settings.redis.url, settings.redis.timeout_s)
        try:
            client.ping()
        finally:
            client.close()
        return f"{redact_url(settings.redis.url)} answers"
    with EmbeddedRedis():
        return "our own server starts"


def _model(settings: Config) -> str:
    """Load it and let it caption blank frames, as every run does to find its batch."""
    rules = load_rules(settings.rules.file or SHIPPED_RULES)
    with ExitStack() as stack:
        _, ready = start_captioner(settings.model, rules, CAPTIONER_FACTORY, stack)
    milliseconds = 1000 * ready.batch_s / ready.batch_frames
    return (
        f"{ready.identity} on {ready.device} with {ready.runtime}: "
        f"{milliseconds:.0f} ms a captioned frame, {ready.batch_frames} at once"
    )


def _player(settings: Config) -> str:
    found = shutil.which("ffplay")
    return f"{found} for search --play" if found else "no ffplay: search --play says the time only"
