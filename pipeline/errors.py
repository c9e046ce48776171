"""The error of whoever uses the program: what was given cannot be used, whatever layer finds it."""

from __future__ import annotations

__all__ = ["WrongUse"]


class WrongUse(ValueError):
    """Something the user can mend: one line that says what to do; exit code 2.

    A plain :class:`ValueError` is a mistake of ours, and shows as one.
    """
