"""Passwords never leave: one place that strikes them out of any text."""

from __future__ import annotations

import logging
import re
import sys
import threading
from types import TracebackType

__all__ = ["RedactingFilter", "log_uncaught", "redact", "redact_loggers", "redact_url"]

# user:password@ in a URL. The password may itself hold @ : / ? #, so the match runs greedily to
# the last @ before white space or a quote; what follows the first @ of a query is never a host.
_CREDENTIALS = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)(?P<secret>[^\s'\"<>]*)@")
_WHOLE_CREDENTIALS = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://).*@", re.DOTALL)
# The same of an address whose :// is mistyped or missing: `rtsp:/me:pw@h`, `rtsp//me:pw@h`,
# `me:pw@h`. It may strike out a file's name that looks so, too.
_LOGIN = re.compile(r"(?<![^\s/'\"<>@=])[^\s/'\"<>@=:]{0,256}:(?!//)(?:(?!://)[^\s'\"<>]){1,256}@")
_WHOLE_LOGIN = re.compile(
    r"(?<![^\s/'\"<>@=])[^\s/'\"<>@=:]{0,256}:(?!//)(?:(?!://).){1,256}@", re.DOTALL
)
# Names that end so, as in `api_key=`; some cameras have them in the path: `/user=a_password=b`.
_QUERY_SECRET = re.compile(
    r"(?P<key>[?&;/_][\w.-]{0,40}?"
    r"(?:password|passwort|passwd|pwd|pass|pas|psw|token|secret|key|auth|signature|sig)=)"
    r"[^&\s'\"<>]*",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Return ``text`` with the user and password of every URL in it replaced by ``***``."""
    struck = _CREDENTIALS.sub(lambda match: f"{match['scheme']}***@", text)
    struck = _LOGIN.sub("***@", struck)
    return _QUERY_SECRET.sub(lambda match: f"{match['key']}***", struck)


def redact_url(url: str) -> str:
    """:func:`redact` for a text that is one URL, whose password may hold blanks and quotes too."""
    struck = _WHOLE_CREDENTIALS.sub(lambda match: f"{match['scheme']}***@", url)
    return redact(_WHOLE_LOGIN.sub("***@", struck))


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


def redact_loggers() -> None:
    """Filter every logger of this package: in a program of others the handlers are theirs."""
    package = __name__.partition(".")[0]
    for name in tuple(logging.root.manager.loggerDict):
        log = logging.getLogger(name)
        known = any(isinstance(each, RedactingFilter) for each in log.filters)
        if name.partition(".")[0] == package and not known:
            log.addFilter(RedactingFilter())


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
