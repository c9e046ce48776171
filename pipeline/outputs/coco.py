"""Captions as COCO results, for programs that score them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.outputs.lines import to_json_line

__all__ = ["to_coco"]


def to_coco(captions: Iterator[dict[str, Any]]) -> Iterator[str]:
    """COCO caption results: a list of ``image_id`` (camera:sequence) and ``caption``."""
    separator = "[\n"
    for record in captions:
        line = record["line"]
        image_id = f"{line['camera']}:{line['sequence']}"
        yield separator + to_json_line({"image_id": image_id, "caption": line["text"]}).rstrip()
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"
