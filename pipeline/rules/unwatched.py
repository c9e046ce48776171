"""Names of cameras and groups in rules that stand for no camera: most often misspelt."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from pipeline.rules.places import watches_camera
from pipeline.rules.ruleset import RuleSet

__all__ = ["unwatched"]


def unwatched(
    rules: RuleSet, cameras: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> str | None:
    """Name in one sentence what rules and their zones want to watch and no camera is; else None.

    Args:
        rules: The rules.
        cameras: Names of all cameras.
        groups: Camera groups of the configuration: group name to camera names or globs.

    """
    known = {**rules.groups, **groups}
    there = [*cameras, *(f"group:{group}" for group in known)]
    wanted = {
        name: rule.spec.name
        for rule in rules.rules
        for names in (rule.spec.cameras, *(zone.cameras for zone in rule.zones))
        for name in names
        if not any(watches_camera((name,), camera, known) for camera in cameras)
    }
    told = [f"{name!r} of rule {rule!r}{_suggestion(name, there)}" for name, rule in wanted.items()]
    return f"{rules.path}: no camera is meant by {', '.join(told)}" if told else None


def _suggestion(name: str, there: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, there, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""
