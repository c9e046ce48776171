"""Caption lines (JSONL) as `run --json` writes them and `rules test` reads them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.messages import Alternative, Caption, Concept, FrameStamp, Region, Word
from pipeline.yaml_models import ConfigError, Problem

__all__ = ["parse_captions", "read_captions"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
Probability = Annotated[float, Field(ge=0, le=1)]


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Word(_Lenient):
    text: str
    probability: Probability = 1.0


class _Box(_Lenient):
    x: Probability
    y: Probability
    width: Probability
    height: Probability


class _Concept(_Lenient):
    probability: Probability
    region: _Box | None = None


class _Line(_Lenient):
    """The fields of a caption line that rules use; only camera, text and a time are needed."""

    camera: Annotated[str, Field(min_length=1)]
    text: str
    time: datetime | None = None
    media_time_s: Annotated[float, Field(allow_inf_nan=False)] | None = None
    sequence: int | None = None
    probability: Probability = 1.0
    words: tuple[_Word, ...] = ()
    alternatives: tuple[_Word, ...] = ()
    concepts: dict[str, _Concept | Probability] = Field(default_factory=dict)
    scores: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)
    model: str = ""

    @model_validator(mode="after")
    def _has_a_time(self) -> _Line:
        if self.time is None and self.media_time_s is None:
            raise ValueError("needs 'time' (RFC 3339) or 'media_time_s'")
        if self.time is not None and self.time.tzinfo is None:
            raise ValueError("'time' needs an offset: end it with Z for UTC")
        return self


def read_captions(path: str | Path) -> Iterator[Caption]:
    """Read caption lines from a file; lines of another ``type`` are passed over.

    Raises:
        ConfigError: The file cannot be read, or a line is not a caption; with file and line.

    """
    try:
        with Path(path).open(encoding="utf-8") as lines:
            yield from parse_captions(lines, str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError([Problem(str(path), None, f"cannot be read: {reason}")]) from None


def parse_captions(lines: Iterable[str], name: str) -> Iterator[Caption]:
    """Make captions of JSON lines; ``name`` stands in errors.

    Raises:
        ConfigError: A line is not a caption.

    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            kind = _Kind.model_validate_json(line)
            if kind.type == "caption":
                yield _caption(_Line.model_validate_json(line), number)
        except ValidationError as error:
            detail = error.errors()[0]
            where = ".".join(str(part) for part in detail["loc"])
            reason = str(detail["msg"]).removeprefix("Value error, ")
            message = f"not a caption line: {where + ': ' if where else ''}{reason}"
            raise ConfigError([Problem(name, number, message)]) from None


class _Kind(_Lenient):
    type: str = "caption"


def _caption(line: _Line, number: int) -> Caption:
    media_s = line.media_time_s
    moment = line.time or _EPOCH + timedelta(seconds=media_s or 0.0)
    moment = moment.astimezone(timezone.utc)
    seconds = (moment - _EPOCH) // timedelta(microseconds=1)
    stamp = FrameStamp(
        camera=line.camera,
        sequence=number - 1 if line.sequence is None else line.sequence,
        captured_at=moment,
        captured_monotonic_ns=seconds * 1000,
        position_s=media_s,
    )
    return Caption(
        stamp=stamp,
        text=line.text,
        log_probability=_log(line.probability),
        words=tuple(Word(word.text, word.probability) for word in line.words),
        alternatives=tuple(Alternative(a.text, _log(a.probability)) for a in line.alternatives),
        model=line.model,
        concepts={word: _concept(found) for word, found in line.concepts.items()},
        scores=line.scores,
    )


def _concept(found: _Concept | float) -> Concept:
    if isinstance(found, float):
        return Concept(found)
    box = found.region
    return Concept(
        found.probability, None if box is None else Region(box.x, box.y, box.width, box.height)
    )


def _log(probability: float) -> float:
    return math.log(max(probability, 1e-300))
