"""The credentials that the tests use: whatever a run prints, logs or writes is searched for them.

A password in a URL of a test is one of these (``test_secret_watch.py`` holds the tests to it), so
that :mod:`secret_watch` finds it wherever it leaks.
"""

from __future__ import annotations

import base64
import json
import re
from urllib.parse import quote

PASSWORD = "hunter2"
OTHER_PASSWORD = "hunter3"
# Whatever is cut off at one of the marks, what is left holds a piece to be known by.
ODD_PASSWORD = "horse7Xq@batt3ryXq/st4pleXq:#?%éXq漢"
ESCAPED_PASSWORD = "50pct%25Xq & m0reXq+"
MARK = "Zq7planted"
"""Begins passwords that are made up at random."""

PLANTED = (PASSWORD, OTHER_PASSWORD, ODD_PASSWORD, ESCAPED_PASSWORD, MARK)
_USERS = ("admin", "user", "")
_LEAST_BYTES = 6  # fewer come about by chance in pictures and weights


def needles() -> tuple[bytes, ...]:
    """Every form in which a planted password would show: whole, in pieces, quoted, in Base64."""
    forms: set[str] = set()
    for password in PLANTED:
        pieces = {password, *re.split(r"[@/:#?%&+ ]+", password)}
        forms |= pieces | {quote(piece, safe="") for piece in pieces}
        forms |= {json.dumps(piece)[1:-1] for piece in pieces}
        forms |= {base64.b64encode(f"{user}:{password}".encode()).decode() for user in _USERS}
    encoded = {form.encode() for form in forms}
    return tuple(sorted(form for form in encoded if len(form) >= _LEAST_BYTES))
