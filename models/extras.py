"""Packages of an extra, asked for before a program that needs them loads."""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["need_train_extra"]

_TRAIN = ("pycocoevalcap", "tensorboard", "tqdm")


def need_train_extra(program: str) -> None:
    """End the program, exit code 2, with what to install where the ``train`` extra is missing."""
    if missing := [package for package in _TRAIN if find_spec(package) is None]:
        print(
            f"{program} needs {', '.join(missing)}; pip install 'watchword[train]', or in a "
            "checkout pip install -e '.[train]'",
            file=sys.stderr,
        )
        sys.exit(2)
