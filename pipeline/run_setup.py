"""From a configuration and the command line to all that a run is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.camera_feed import CameraSpec
from pipeline.camera_specs import camera_specs
from pipeline.config import Config
from pipeline.rules import RuleSet, load_rules
from pipeline.sources import expand_sources

__all__ = ["SHIPPED_RULES", "Setup", "read_setup"]

SHIPPED_RULES = Path(__file__).parent.parent / "configs" / "rules.yaml"


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a run is made of; ``files`` are those whose change is a reason to read it anew."""

    config: Config
    specs: tuple[CameraSpec, ...]
    rules: RuleSet
    files: tuple[Path, ...] = ()


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
    files = (rules_file,) if config_file is None else (config_file, rules_file)
    return Setup(config, tuple(specs), load_rules(rules_file), files)
