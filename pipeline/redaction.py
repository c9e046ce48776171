"""Passwords never leave: one place that strikes them out of any text."""

from __future__ import annotations

import logging
import re

__all__ = ["RedactingFilter", "redact"]

# user:password@ in a URL. The password may itself hold @ : / ? #, so the match runs greedily to
# the last @ before white space or a quote; what follows the first @ of a query is never a host.
_CREDENTIALS = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)(?P<secret>[^\s'\"<>]*)@")
_QUERY_SECRET = re.compile(
    r"(?P<key>[?&;](?:password|passwd|pwd|pass|token|secret|key|auth)=)[^&\s'\"<>]*", re.IGNORECASE
)


def redact(text: str) -> str:
    """Return ``text`` with the user and password of every URL in it replaced by ``***``."""
    struck = _CREDENTIALS.sub(lambda match: f"{match['scheme']}***@", text)
    return _QUERY_SECRET.sub(lambda match: f"{match['key']}***", struck)


class RedactingFilter(logging.Filter):
    """Redacts the message, its arguments and the exception text of every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record in place and let it pass."""
        record.msg = redact(record.getMessage())
        record.args = ()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        return True
