"""The one schema of a configuration file. Nothing here touches the network, a camera or a GPU."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, field_validator

from pipeline.channel import Overflow
from pipeline.moments import known_time_zone
from pipeline.sources import parse_source
from pipeline.yaml_models import Strict, load_yaml_model

__all__ = [
    "CameraConfig",
    "CaptureConfig",
    "ClipConfig",
    "Config",
    "MetricsConfig",
    "ModelConfig",
    "MqttConfig",
    "OutputConfig",
    "Polygon",
    "RedisConfig",
    "RulesConfig",
    "SnapshotConfig",
    "StoreConfig",
    "WebhookConfig",
    "load_config",
    "signing_key",
]

PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Polygon = Annotated[tuple[tuple[Fraction, Fraction], ...], Field(min_length=3)]
"""Corners (x, y) as fractions of the picture's width and height, from its top left."""
PositiveInt = Annotated[int, Field(gt=0)]
# A camera's name becomes a file name, a Redis key and a metric label.
CAMERA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_KEY_PREFIX = "whsec_"
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(\d{1,5}))?")


class CaptureConfig(Strict):
    """How frames are grabbed; every value can be set per camera too."""

    analysis_fps: PositiveFloat = 2.5
    captions_per_second: PositiveFloat = 1.0
    transport: Literal["tcp", "udp"] = "tcp"
    open_timeout_s: PositiveFloat = 5.0
    read_timeout_s: PositiveFloat = 5.0
    stale_after_s: PositiveFloat = 5.0
    max_frame_age_s: PositiveFloat = 2.0
    queue_frames: PositiveInt = 3
    overflow: Overflow | None = None
    """``wait``, ``drop_oldest`` or ``drop_newest``; unset, files wait and live drops oldest."""
    key_frames_only: bool = False
    """Decode and look at key frames alone (needs PyAV): for a caption every key frame."""
    hardware_decoding: bool = False
    """Let OpenCV decode on the graphics processor where it can."""
    blind_after_s: PositiveFloat | None = 10.0
    """Pictures black, covered or defocused for so long: the camera is blind. None: not judged."""
    frozen_after_s: PositiveFloat = 30.0
    """Pictures that do not change at all for so long: the camera is blind."""
    restart_budget: PositiveInt = 5
    restart_window_s: PositiveFloat = 60.0
    skip_unchanged_below: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Grey difference (0..1) of the most changed block of 7 x 7, below which a scene is still."""
    unchanged_period_s: PositiveFloat = 5.0
    """Frames are skipped once a scene has been still for so long; one a period is kept."""
    preview_pixels: Annotated[int, Field(ge=64, le=1920)] = 640
    """Longest side, in pixels, of the picture kept for snapshots."""
    time_zone: str | None = None
    """Zone of times in recordings' names and of start times without one. None: this machine's."""

    @field_validator("time_zone")
    @classmethod
    def _zone_is_known(cls, name: str | None) -> str | None:
        return name if name is None else known_time_zone(name)

    @property
    def zone(self) -> ZoneInfo | None:
        """The time zone of the recorder's clock; None: this machine's."""
        return None if self.time_zone is None else ZoneInfo(self.time_zone)


class CameraConfig(Strict):
    """One camera: where it is, and what is special about it."""

    source: str
    groups: tuple[str, ...] = ()
    capture: CaptureConfig | None = None
    start_time: str | None = None
    """When a recording began (RFC 3339); for files only."""
    masks: tuple[Polygon, ...] = ()
    """Polygons that are blacked out before anything else sees the picture."""

    @field_validator("source")
    @classmethod
    def _source_is_usable(cls, value: str) -> str:
        parse_source(value)
        return value


Runtime = Literal[
    "auto",
    "eager",
    "openvino",
    "openvino-bf16",
    "openvino-int8",
    "openvino-bf16-int8",
    "cuda-graph",
]
"""Those of ``models.runtimes``, told here so that a check needs no model."""


class ModelConfig(Strict):
    """Which captioner, on what, and how it decodes."""

    name: str = "default"
    device: str = "auto"
    runtime: Runtime = "auto"
    beam_size: Annotated[int, Field(ge=1, le=20)] = 3
    max_words: Annotated[int, Field(ge=3, le=60)] = 20
    window_frames: Annotated[int, Field(ge=1, le=32)] = 5
    max_batch_frames: Annotated[int, Field(ge=1, le=256)] = 16
    """Most frames in a batch; what pays is measured at the start."""
    max_batch_delay_ms: Annotated[float, Field(ge=0, le=1000)] = 15.0
    answer_timeout_s: PositiveFloat = 6.0
    """How long the captioner child may be silent over a batch before it is restarted.

    At least twenty times what a batch took at the start.
    """

    @field_validator("device")
    @classmethod
    def _device_is_known(cls, name: str) -> str:
        if not _DEVICE.fullmatch(name):
            raise ValueError("is none of auto, cpu, cuda and cuda:N (N from 0)")
        return name


class RulesConfig(Strict):
    """Where the rules lie."""

    file: str | None = None
    """A rules file; unset, the shipped ``configs/rules.yaml``."""


class RedisConfig(Strict):
    """Where alerts go. Without a URL the run starts a server of its own."""

    url: str | None = None
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:{}-]{1,64}$")] = "watchword"
    stream_max_length: PositiveInt = 100_000
    snapshot_ttl_s: PositiveInt = 7 * 24 * 3600
    timeout_s: PositiveFloat = 2.0


def signing_key(secret: str) -> bytes:
    """Give the key that a webhook's secret stands for: base64 after ``whsec_``, else its text.

    Raises:
        ValueError: After ``whsec_`` comes no base64, or nothing; the text does not show the secret.

    """
    if not secret.startswith(_KEY_PREFIX):
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix(_KEY_PREFIX), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise ValueError(
            f"a webhook's secret that begins with {_KEY_PREFIX} is base64 after that; copy all of "
            "it, with each = at its end"
        )
    return key


class WebhookConfig(Strict):
    """A URL that events are posted to."""

    url: SecretStr
    """``http://`` or ``https://``, also with ``user:password@``; often a token, so never shown."""
    secret: SecretStr | None = None
    """Signs each post (Standard Webhooks); ``whsec_…`` or any text."""
    types: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    """Globs of event types; others are not posted."""
    snapshot: bool = False
    """Whether the picture comes along, as base64 in ``data.snapshot_jpeg``."""
    timeout_s: PositiveFloat = 5.0

    @field_validator("secret")
    @classmethod
    def _is_a_key(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            signing_key(secret.get_secret_value())
        return secret

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: SecretStr) -> SecretStr:
        parts = urlsplit(url.get_secret_value())
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("a webhook's url begins with http:// or https:// and names a host")
        host = _HOST_AND_PORT.fullmatch(parts.netloc.rpartition("@")[2])
        if host is None or int(host[2] or 0) > 65535:
            raise ValueError(
                "a webhook's url names no usable host; write '/', '?', '#' in a password as %2F, "
                "%3F, %23"
            )
        return url


class MqttConfig(Strict):
    """An MQTT broker; needs the extra ``watchword[mqtt]``."""

    host: str
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    username: str | None = None
    password: SecretStr | None = None
    tls: bool = False
    ca_file: str | None = None
    """Certificates to trust with ``tls``; unset, the system's."""
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "watchword"
    discovery_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = (
        "homeassistant"
    )
    """Where Home Assistant looks for devices; null tells it nothing."""
    timeout_s: PositiveFloat = 5.0


class StoreConfig(Strict):
    """The one SQLite file: outbox, rule state, caption archive."""

    path: str = "output/watchword.sqlite3"
    reserve_mib: Annotated[int, Field(ge=0, le=1024)] = 8
    """Space kept ahead for the outbox, so that a full disk loses no alert."""
    event_max_age_days: Annotated[float, Field(ge=7, le=36500)] = 30.0
    """Published events are kept so long: no less than Redis knows their ids, which is 7 days."""
    caption_max_age_days: Annotated[float, Field(gt=0, le=36500)] = 30.0
    caption_max_mib: PositiveFloat = 1024.0


OutputFormat = Literal["vtt", "srt", "jsonl", "coco", "video", "report"]


class OutputConfig(Strict):
    """Files written beside the alerts."""

    directory: str = "output"
    formats: tuple[OutputFormat, ...] = ("vtt", "jsonl")
    resume: bool = False
    """Leave out recordings that a run before, cut short, has finished with the same settings."""


class SnapshotConfig(Strict):
    """The picture that goes with an alert; it is in Redis for ``redis.snapshot_ttl_s``."""

    directory: str | None = None
    """Keep copies in this folder too."""
    max_mib: PositiveFloat = 512.0
    """How large the folder may grow; the oldest pictures go first."""
    blur_faces: bool = False
    """Make faces unrecognisable, in Redis and in the folder; needs the extra ``faces``."""


class ClipConfig(Strict):
    """A short video of the seconds around the start of an alert; needs the extra ``clips``.

    Faces in it are blurred where ``snapshots.blur_faces`` says so.
    """

    directory: str | None = None
    """Keep clips in this folder; unset, there are none."""
    before_s: Annotated[float, Field(ge=0, le=60)] = 5.0
    after_s: Annotated[float, Field(ge=0, le=60)] = 5.0
    max_mib: PositiveFloat = 2048.0
    """How large the folder may grow; the oldest clips go first."""
    memory_mib: PositiveFloat = 16.0
    """Memory for the last pictures of each camera."""


class MetricsConfig(Strict):
    """Where ``/metrics``, ``/healthz`` and ``/readyz`` answer. Without a port they do not."""

    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    host: str = "127.0.0.1"


class Config(Strict):
    """A whole configuration file."""

    cameras: dict[str, CameraConfig] = Field(default={})
    capture: CaptureConfig = CaptureConfig()
    model: ModelConfig = ModelConfig()
    rules: RulesConfig = RulesConfig()
    redis: RedisConfig = RedisConfig()
    webhooks: dict[str, WebhookConfig] = Field(default={})
    mqtt: MqttConfig | None = None
    store: StoreConfig = StoreConfig()
    output: OutputConfig = OutputConfig()
    snapshots: SnapshotConfig = SnapshotConfig()
    clips: ClipConfig = ClipConfig()
    metrics: MetricsConfig = MetricsConfig()

    @field_validator("cameras")
    @classmethod
    def _names_are_usable(cls, cameras: dict[str, CameraConfig]) -> dict[str, CameraConfig]:
        for name in cameras:
            if not CAMERA_NAME.fullmatch(name):
                raise ValueError(
                    f"camera name {name!r} is not usable: letters, digits, '_', '.' and '-' only, "
                    "at most 64"
                )
        return cameras

    def capture_of(self, camera: str) -> CaptureConfig:
        """Capture settings of one camera: the file's, overlaid with what the camera sets."""
        own = self.cameras[camera].capture
        if own is None:
            return self.capture
        return self.capture.model_copy(update=own.model_dump(exclude_unset=True))


def load_config(path: str | Path, environment: Mapping[str, str] | None = None) -> Config:
    """Read and check a configuration file.

    Args:
        path: A YAML file.
        environment: Where ``${NAME}`` is looked up; the process's own by default.

    Raises:
        ConfigError: With every problem found, each with its line.

    """
    return load_yaml_model(path, Config, environment)
