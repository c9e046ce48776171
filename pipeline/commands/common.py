"""What the commands share: exit codes, shipped files, and the error a user can mend."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path

__all__ = ["DEMO_RULES", "SHIPPED_RULES", "ExitCode", "WrongUse"]

_CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED_RULES = _CONFIGS / "rules.yaml"
DEMO_RULES = _CONFIGS / "demo_rules.yaml"


class ExitCode(IntEnum):
    """How a command ends; scripts rely on these."""

    DONE = 0
    FAILED = 1
    WRONG_USE = 2
    INTERRUPTED = 130


class WrongUse(Exception):
    """Something the user can mend: one line on the screen, exit code 2."""
