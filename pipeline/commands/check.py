"""``check``: everything that is wrong with a configuration or rules file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.common import SHIPPED_RULES
from pipeline.config import ConfigError, load_config
from pipeline.rules import check_examples, load_rules
from pipeline.sources import parse_source

__all__ = ["check"]


def check(file: Annotated[Path, typer.Argument(help="A configuration or rules file.")]) -> None:
    """Say everything that is wrong with a configuration; touches no network and no GPU.

    Example: watchword check site.yaml
    """
    if _is_rules_file(file):
        rule_set = load_rules(file)
    else:
        loaded = load_config(file)
        for camera in loaded.cameras.values():
            parse_source(camera.source)
        rule_set = load_rules(loaded.rules.file or SHIPPED_RULES)
    problems = check_examples(rule_set)
    if problems:
        raise ConfigError(problems)
    print(f"{file}: good")


def _is_rules_file(file: Path) -> bool:
    """Whether a YAML file has a top-level list called rules."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    at = [index for index, line in enumerate(lines) if line.rstrip() == "rules:"]
    return bool(at) and any(line.lstrip().startswith("- ") for line in lines[at[0] :])
