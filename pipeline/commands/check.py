"""``check``: everything that is wrong with a configuration or rules file."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline.alerts.faces import face_finder
from pipeline.camera_specs import camera_specs
from pipeline.commands.common import SHIPPED_RULES, ExitCode
from pipeline.config import Config, load_config
from pipeline.errors import WrongUse
from pipeline.outputs.lines import to_json_line
from pipeline.rules import check_examples, load_rules
from pipeline.run_setup import names_of_no_camera
from pipeline.sources import SourceError, expand_sources
from pipeline.yaml_models import ConfigError, Problem, holds_list, line_of

__all__ = ["check", "problems_in"]


def check(
    file: Annotated[Path, typer.Argument(help="A configuration or rules file.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object a problem.")] = False,
) -> None:
    """Say everything that is wrong with a configuration; touches no network and no GPU.

    Example: watchword check site.yaml
    """
    problems, holds = problems_in(file)
    if problems and not json:
        raise ConfigError(problems)
    for problem in problems:
        sys.stdout.write(to_json_line(asdict(problem)))
    if problems:
        raise typer.Exit(ExitCode.WRONG_USE)
    if not json:
        print(f"{file}: good ({holds})")


def problems_in(file: Path) -> tuple[list[Problem], str]:
    """Find all that is wrong with a file; and say what a good one holds."""
    try:
        if holds_list(file, "rules"):
            rule_set = load_rules(file)
            return check_examples(rule_set), f"rules: {len(rule_set.rules)}"
        config = load_config(file)
    except ConfigError as error:
        return list(error.problems), ""
    problems, cameras = _of_cameras(file, config)
    rules, count = _of_rules(file, config, cameras)
    if config.snapshots.blur_faces:
        try:
            face_finder()
        except WrongUse as error:
            line = line_of(file, ("snapshots", "blur_faces"))
            problems.append(Problem(str(file), line, str(error)))
    return problems + rules, f"cameras: {len(config.cameras)}, rules: {count}"


def _of_cameras(file: Path, config: Config) -> tuple[list[Problem], list[str]]:
    """Look at each source and start time as a run would before it opens anything."""
    problems, cameras = [], []
    for name, camera in config.cameras.items():
        try:
            specs = camera_specs(config, expand_sources([f"{name}={camera.source}"]))
            cameras += [spec.name for spec in specs]
        except SourceError as error:
            line = line_of(file, ("cameras", name, "source"))
            problems.append(Problem(str(file), line, f"camera {name}: {error}"))
            cameras.append(name)
    return problems, cameras


def _of_rules(file: Path, config: Config, cameras: list[str]) -> tuple[list[Problem], int]:
    """Look at the rules that a configuration names; a missing file is told with its line.

    A name in them that stands for no camera may be meant for another site: it is said, not refused.
    """
    if config.rules.file is not None and not Path(config.rules.file).is_file():
        line = line_of(file, ("rules", "file"))
        return [Problem(str(file), line, f"rules.file: no such file: {config.rules.file}")], 0
    try:
        rule_set = load_rules(config.rules.file or SHIPPED_RULES)
    except ConfigError as error:
        return list(error.problems), 0
    if told := names_of_no_camera(config, cameras, rule_set):
        sys.stderr.write(f"{told}\n")
    return check_examples(rule_set), len(rule_set.rules)
