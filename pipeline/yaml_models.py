"""YAML files read into pydantic models, with errors that say file, line and nearest key.

``${NAME}`` in a value is replaced from the environment, so that passwords stay out of files.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from pipeline.redaction import redact, redact_url

__all__ = [
    "ConfigError",
    "Problem",
    "Strict",
    "holds_list",
    "line_of",
    "load_yaml_model",
    "problem_text",
]

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_IN_YAML = {  # pydantic speaks of Python's types
    "tuple_type": "must be a list, such as [a, b]",
    "list_type": "must be a list, such as [a, b]",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "bool_type": "must be true or false",
    "string_type": "must be text; put it in quotes",
    "too_short": "must not be empty",
}
_ADDRESSES = ("source", "url")
ModelT = TypeVar("ModelT", bound=BaseModel)


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
        said = f"unknown key {where!r}; {_instead(schema, location[-1], known)}"
        return Problem(name, line, redact(said))
    if detail["type"] == "missing":
        return Problem(name, line, f"{where!r} is missing")
    message = problem_text(detail, secret=_is_secret(schema, location))
    return Problem(name, line, redact(f"{where}: {message}" if where else message))


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
    """Whether what stands at ``location`` is a password, a token, or an address that holds one.

    An address is known by the name of its key. What is wrong with it may be just what keeps the
    password in it from being found.
    """
    if location and location[-1] in _ADDRESSES:
        return True
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
