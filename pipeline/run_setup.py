"""From a configuration and the command line to all that a run is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.camera_feed import CameraSpec
from pipeline.camera_specs import camera_specs
from pipeline.config import Config
from pipeline.rules import RuleSet, load_rules, unwatched
from pipeline.sources import expand_sources

__all__ = [
    "SHIPPED_RULES",
    "Setup",
    "Signature",
    "camera_groups",
    "names_of_no_camera",
    "read_setup",
    "signatures",
]

SHIPPED_RULES = Path(__file__).parent.parent / "configs" / "rules.yaml"


Signature = tuple[int, int, int] | None
"""Tells a file from what it was, renamed into place or written over; None where there is none."""


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a run is made of; ``files`` are those whose change is a reason to read it anew.

    ``signatures`` are theirs from before they were read.
    """

    config: Config
    specs: tuple[CameraSpec, ...]
    rules: RuleSet
    files: tuple[Path, ...] = ()
    signatures: Mapping[Path, Signature] = field(default_factory=dict)


def read_setup(
    config: Config, config_file: Path | None, sources: Sequence[str], start_time: str | None
) -> Setup:
    """Find the cameras (those of the configuration, unless ``sources`` names others) and rules.

    Raises:
        ConfigError: The rules cannot be used.
        SourceError: A source cannot be used.

    """
    texts = sources or [f"{name}={camera.source}" for name, camera in config.cameras.items()]
    specs = camera_specs(config, expand_sources(texts), start_time)
    rules_file = Path(config.rules.file or SHIPPED_RULES)
    named = (rules_file,) if config_file is None else (config_file, rules_file)
    before = signatures(named)
    rules = load_rules(rules_file)
    files = (*named, *rules.lexicon_files)
    return Setup(config, tuple(specs), rules, files, signatures(files) | before)


def camera_groups(config: Config) -> dict[str, list[str]]:
    """Group name to the cameras in it."""
    groups: dict[str, list[str]] = {}
    for name, camera in config.cameras.items():
        for group in camera.groups:
            groups.setdefault(group, []).append(name)
    return groups


def names_of_no_camera(config: Config, cameras: Sequence[str], rules: RuleSet) -> str | None:
    """Say which names in the rules stand for no camera; None where none does.

    The shipped rules name a group that a site may have or not: of them it is said only where there
    are groups at all.
    """
    groups = camera_groups(config)
    if config.rules.file is None and not groups:
        return None
    return unwatched(rules, cameras, groups)


def signatures(files: Iterable[Path]) -> dict[Path, Signature]:
    """Take the signatures of files as they are now."""
    return {path: _signature(path) for path in files}


def _signature(path: Path) -> Signature:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
