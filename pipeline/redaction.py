"""Passwords never leave: one place that strikes them out of any text."""

from __future__ import annotations

import logging
import re
import sys
import threading
from types import TracebackType

__all__ = ["RedactingFilter", "log_uncaught", "redact"]

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


def log_uncaught() -> None:
    """Send errors that nobody caught, in any thread, through the log and so through redaction.

    Python's own hooks print them as they are, with whatever their text holds.
    """
    log = logging.getLogger("watchword")

    def of_the_program(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        log.critical("the program failed", exc_info=(kind, error, trace))

    def of_a_thread(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_value is not None and failed.exc_type is not SystemExit:
            name = "?" if failed.thread is None else failed.thread.name
            what = (failed.exc_type, failed.exc_value, failed.exc_traceback)
            log.critical("thread %s failed", name, exc_info=what)

    sys.excepthook = of_the_program
    threading.excepthook = of_a_thread
