"""The one schema of a configuration file, and errors that say file, line and nearest key.

YAML in, a frozen :class:`Config` out. ``${NAME}`` in a value is replaced from the environment,
so that passwords stay out of files. Nothing here touches the network, a camera or a GPU.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo

from pipeline.channel import Overflow
from pipeline.redaction import redact_url
from pipeline.sources import parse_source

__all__ = [
    "CameraConfig",
    "CaptureConfig",
    "ClipConfig",
    "Config",
    "ConfigError",
    "MetricsConfig",
    "ModelConfig",
    "MqttConfig",
    "OutputConfig",
    "Polygon",
    "Problem",
    "RedisConfig",
    "RulesConfig",
    "SnapshotConfig",
    "StoreConfig",
    "WebhookConfig",
    "known_time_zone",
    "line_of",
    "load_config",
    "load_yaml_model",
    "problem_text",
]

PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Polygon = Annotated[tuple[tuple[Fraction, Fraction], ...], Field(min_length=3)]
"""Corners (x, y) as fractions of the picture's width and height, from its top left."""
PositiveInt = Annotated[int, Field(gt=0)]
# A camera's name becomes a file name, a Redis key and a metric label.
CAMERA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(\d{1,5}))?")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a file: what, where (line from 1, None for the whole file), what to do."""

    path: str
    line: int | None
    message: str

    def __str__(self) -> str:
        place = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{place}: {self.message}"


class ConfigError(Exception):
    """A file that cannot be used; ``problems`` lists everything found wrong in it."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems))


class Strict(BaseModel):
    """Base of every section: frozen, and an unknown key is an error."""

    # What was given may be a password: pydantic's own text does not hold it.
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True
    )


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


class CaptureConfig(Strict):
    """How frames are grabbed; every value can be set per camera too."""

    analysis_fps: PositiveFloat = 2.5
    captions_per_second: PositiveFloat = 1.0
    transport: Literal["tcp", "udp"] = "tcp"
    open_timeout_s: PositiveFloat = 5.0
    read_timeout_s: PositiveFloat = 5.0
    stale_after_s: PositiveFloat = 5.0
    max_frame_age_s: PositiveFloat = 2.0
    queue_frames: PositiveInt = 2
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


Runtime = Literal["auto", "eager", "openvino", "openvino-bf16", "cuda-graph"]
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

    cameras: dict[str, CameraConfig] = Field(default_factory=dict)
    capture: CaptureConfig = CaptureConfig()
    model: ModelConfig = ModelConfig()
    rules: RulesConfig = RulesConfig()
    redis: RedisConfig = RedisConfig()
    webhooks: dict[str, WebhookConfig] = Field(default_factory=dict)
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


_IN_YAML = {  # pydantic speaks of Python's types
    "tuple_type": "must be a list, such as [a, b]",
    "list_type": "must be a list, such as [a, b]",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "bool_type": "must be true or false",
    "string_type": "must be text; put it in quotes",
    "too_short": "must not be empty",
}
ModelT = TypeVar("ModelT", bound=BaseModel)


def load_config(path: str | Path, environment: Mapping[str, str] | None = None) -> Config:
    """Read and check a configuration file.

    Args:
        path: A YAML file.
        environment: Where ``${NAME}`` is looked up; the process's own by default.

    Raises:
        ConfigError: With every problem found, each with its line.

    """
    return load_yaml_model(path, Config, environment)


def load_yaml_model(
    path: str | Path, schema: type[ModelT], environment: Mapping[str, str] | None = None
) -> ModelT:
    """Read a YAML file into a pydantic model; every problem carries file, line and what to do.

    Raises:
        ConfigError: The file is missing, is not YAML, or does not fit the schema.

    """
    name = str(path)
    root = _compose(name)
    problems: list[Problem] = []
    data = _construct(root, name, os.environ if environment is None else environment, problems)
    if problems:
        raise ConfigError(problems)
    if not isinstance(data, dict):
        raise ConfigError([Problem(name, 1, "must be a mapping of keys to values")])
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        found = [_explain(name, root, schema, detail) for detail in _root_causes(error)]
        raise ConfigError(found) from None


def _compose(name: str) -> yaml.Node:
    try:
        text = Path(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([Problem(name, None, "no such file; check the path")]) from None
    except IsADirectoryError:
        raise ConfigError([Problem(name, None, "is a directory, not a YAML file")]) from None
    except OSError as error:
        raise ConfigError([Problem(name, None, f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigError([Problem(name, None, "is not UTF-8 text")]) from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        raise ConfigError([Problem(name, line, f"not valid YAML: {error.problem}")]) from None
    except yaml.YAMLError as error:
        raise ConfigError([Problem(name, None, f"not valid YAML: {error}")]) from None
    if root is None:
        return yaml.MappingNode("tag:yaml.org,2002:map", [])
    return root


def _construct(
    node: yaml.Node, name: str, environment: Mapping[str, str], problems: list[Problem]
) -> Any:
    """Build plain data from nodes: safe tags only, no duplicate keys, ``${NAME}`` filled in."""
    line = node.start_mark.line + 1 if node.start_mark else 1
    if isinstance(node, yaml.MappingNode):
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = _construct(key_node, name, environment, problems)
            if not isinstance(key, (str, int, float, bool)):
                problems.append(Problem(name, line, "a key must be a plain word"))
                continue
            if key in result:
                at = key_node.start_mark.line + 1
                problems.append(Problem(name, at, f"key {key!r} is there twice; keep one"))
            result[key] = _construct(value_node, name, environment, problems)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, name, environment, problems) for item in node.value]
    if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
        problems.append(Problem(name, line, f"tag {node.tag!r} is not allowed; plain values only"))
        return None
    if node.tag == "tag:yaml.org,2002:str":
        return _fill_in(str(node.value), name, line, environment, problems)
    try:
        return yaml.SafeLoader("").construct_object(node)  # numbers, booleans, null, dates
    except (yaml.YAMLError, ValueError) as error:
        problems.append(Problem(name, line, f"not a usable value: {error}"))
        return None


def _fill_in(
    text: str, name: str, line: int, environment: Mapping[str, str], problems: list[Problem]
) -> str:
    def replace(match: re.Match[str]) -> str:
        value = environment.get(match[1], match[2])
        if value is None:
            problems.append(
                Problem(name, line, f"environment variable {match[1]} is not set; export it first")
            )
            return ""
        return value

    return _VARIABLE.sub(replace, text)


def _root_causes(error: ValidationError) -> list[Mapping[str, Any]]:
    """Leave out that a list is too short where that is so only for an item that is wrong."""
    details: list[Mapping[str, Any]] = list(error.errors())
    places = [tuple(detail["loc"]) for detail in details]

    def follows(detail: Mapping[str, Any]) -> bool:
        here = tuple(detail["loc"])
        return detail["type"] == "too_short" and any(
            place[: len(here)] == here and len(place) > len(here) for place in places
        )

    return [detail for detail in details if not follows(detail)]


def _explain(
    name: str, root: yaml.Node, schema: type[BaseModel], detail: Mapping[str, Any]
) -> Problem:
    location: tuple[str | int, ...] = (*detail["loc"], *detail.get("ctx", {}).get("at", ()))
    line = _line_of(root, location)
    where = ".".join(str(part) for part in location)
    if detail["type"] == "extra_forbidden":
        known = _known_keys(schema, location[:-1])
        return Problem(
            name, line, f"unknown key {where!r}; {_instead(schema, location[-1], known)}"
        )
    if detail["type"] == "missing":
        return Problem(name, line, f"{where!r} is missing")
    message = problem_text(detail, secret=_is_secret(schema, location))
    return Problem(name, line, f"{where}: {message}" if where else message)


def problem_text(detail: Mapping[str, Any], *, secret: bool = False) -> str:
    """Say what is wrong with one value, in the words of a YAML file, and what was given.

    What was given for a ``secret`` is not shown.
    """
    said = str(detail["msg"]).removeprefix("Value error, ")
    message = _IN_YAML.get(detail["type"], said.replace("Input should be ", "must be "))
    given = detail.get("input")
    if secret or not isinstance(given, (str, int, float)) or repr(given) in message:
        return message
    return f"{message} (given: {redact_url(repr(given))})"


def _instead(schema: type[BaseModel], key: str | int, known: Sequence[str]) -> str:
    """Name the nearest key of the same section, else the same key of another, else all."""
    nearest = difflib.get_close_matches(str(key), known, n=1)
    if nearest:
        return f"did you mean {nearest[0]!r}?"
    for section in schema.model_fields:
        if key in _known_keys(schema, (section,)):
            return f"did you mean '{section}.{key}'?"
    return f"known: {', '.join(known)}"


def line_of(path: str | Path, location: tuple[str | int, ...]) -> int | None:
    """Line (from 1) at which a setting stands in a file, or the nearest section around it."""
    return _line_of(_compose(str(path)), location)


def holds_list(path: str | Path, key: str) -> bool:
    """Whether what stands under a file's top-level ``key`` is a list.

    Raises:
        ConfigError: The file is missing or is not YAML.

    """
    root = _compose(str(path))
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    return any(name.value == key and isinstance(value, yaml.SequenceNode) for name, value in pairs)


def _line_of(root: yaml.Node, location: tuple[str | int, ...]) -> int | None:
    """Line (from 1) of the deepest node on the way to ``location``."""
    node = root
    line = node.start_mark.line + 1 if node.start_mark else None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next((p for p in node.value if str(p[0].value) == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                break
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _known_keys(schema: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """Names of the fields of the model that stands at ``location`` below ``schema``."""
    return sorted(_fields_at(schema, location))


def _is_secret(schema: type[BaseModel], location: tuple[str | int, ...]) -> bool:
    """Whether what stands at ``location`` is a password, a token, or a URL that holds one."""
    field = _fields_at(schema, location[:-1]).get(str(location[-1])) if location else None
    annotation = None if field is None else field.annotation
    return SecretStr in (annotation, *getattr(annotation, "__args__", ()))


def _fields_at(schema: type[BaseModel], location: tuple[str | int, ...]) -> Mapping[str, FieldInfo]:
    """Fields of the model that stands at ``location`` below ``schema``; none where none stands."""
    current: Any = schema
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            if field is not None:  # else an index or a mapping's key: the model is that below it
                current = _model_in(field.annotation)
    if isinstance(current, type) and issubclass(current, BaseModel):
        return current.model_fields
    return {}


def _model_in(annotation: Any) -> Any:
    """The pydantic model inside ``dict[str, Model]``, ``Model | None`` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
