"""What the commands share: exit codes, shipped files, and the error a user can mend."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path

from pipeline.errors import WrongUse
from pipeline.run_setup import SHIPPED_RULES

__all__ = ["DEMO_RULES", "SHIPPED_RULES", "ExitCode", "WrongUse"]

_CONFIGS = Path(__file__).parents[2] / "configs"
DEMO_RULES = _CONFIGS / "demo_rules.yaml"


class ExitCode(IntEnum):
    """How a command ends; scripts rely on these."""

    DONE = 0
    FAILED = 1
    WRONG_USE = 2
    INTERRUPTED = 130
