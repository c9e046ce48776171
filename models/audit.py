"""Reads nothing but the captions of a data set, or of a file that a run wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

__all__ = ["AuditError", "captions_in"]

_KEYS = ("captions", "sentences", "caption", "text")


class AuditError(ValueError):
    """Captions cannot be read; the text names the file and the line."""


def captions_in(data: Path) -> Iterator[str]:
    """Yield every caption of a file of JSON lines, or of each ``captions.jsonl`` in a folder.

    A line holds ``captions`` or ``sentences`` (a list), as data sets have it, or ``caption`` or
    ``text``, as the JSON lines of a run have it. Lines of another type, such as a
    run's summary, are passed over.

    Raises:
        AuditError: There is no such file, or a line that is no JSON object.

    """
    files = sorted(data.rglob("captions.jsonl")) if data.is_dir() else [data]
    if not files:
        raise AuditError(f"{data}: no captions.jsonl in there; give a data set or a .jsonl file")
    for file in files:
        try:
            with file.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield from _captions_of(line, f"{file}:{number}")
        except OSError as error:
            raise AuditError(f"{file} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise AuditError(f"{file} is not text in UTF-8; give JSON lines") from None


def _captions_of(line: str, where: str) -> list[str]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise AuditError(f"{where}: no JSON: {error}") from None
    if not isinstance(record, dict):
        raise AuditError(f"{where}: must be an object with captions, caption or text")
    if record.get("type", "caption") != "caption":
        return []
    value = next((record[key] for key in _KEYS if key in record), None)
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not all(isinstance(each, str) for each in captions):
        raise AuditError(f"{where}: needs captions (a list of sentences), caption or text")
    return captions
