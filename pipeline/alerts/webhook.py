"""A sink that posts each event to a URL, signed after the Standard Webhooks specification.

https://www.standardwebhooks.com: ``webhook-id``, ``webhook-timestamp`` and ``webhook-signature``
let a receiver drop what it has seen and refuse what we did not send.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import hmac
import json
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from pipeline.alerts.publisher import EventRefused, SinkError
from pipeline.config import WebhookConfig, signing_key
from pipeline.store import OutboxEntry

__all__ = ["WebhookSink", "signature"]

_REFUSED = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
}
"""Answers about the event itself; sending it again would bring the same."""

_AS_WRITTEN = "/?%:@!$&'()*+,;=~"
"""What a path or query keeps; the rest, blanks and letters beyond ASCII, is quoted."""


class WebhookSink:
    """Posts events as structured CloudEvents JSON; redirects are not followed.

    Args:
        name: The webhook's name in the configuration.
        config: Where to, and what for.

    """

    longest_retry_s = 60.0

    def __init__(self, name: str, config: WebhookConfig) -> None:
        self.name = f"webhook:{name}"
        self.timeout_s = config.timeout_s
        self._config = config
        self._opener = urllib.request.build_opener(_NoRedirect)

    def send(self, entry: OutboxEntry) -> None:
        """Post one event; one of a type that is not asked for is passed over.

        Raises:
            SinkError: No answer, or one that may be another later.
            EventRefused: The receiver takes no such event.

        """
        event = json.loads(entry.event)
        if not any(fnmatch.fnmatchcase(event["type"], wanted) for wanted in self._config.types):
            return
        try:
            with self._opener.open(self._request(entry, event), timeout=self.timeout_s) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            kind = EventRefused if error.code in _REFUSED else SinkError
            raise kind(f"{self.name} answers {error.code} {error.reason}") from error
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise SinkError(f"{self.name} does not answer: {reason}") from error

    def idle(self) -> None:
        """Nothing to do without an event."""

    def close(self) -> None:
        """Nothing is held between posts."""

    def _request(self, entry: OutboxEntry, event: dict[str, Any]) -> urllib.request.Request:
        body = entry.event.encode()
        if self._config.snapshot and entry.snapshot is not None:
            event["data"]["snapshot_jpeg"] = base64.b64encode(entry.snapshot).decode()
            body = json.dumps(event, ensure_ascii=False).encode()
        timestamp = str(int(time.time()))
        headers = {
            "content-type": "application/cloudevents+json; charset=utf-8",
            "user-agent": "watchword",
            "webhook-id": entry.id,
            "webhook-timestamp": timestamp,
        }
        if self._config.secret is not None:
            secret = self._config.secret.get_secret_value()
            headers["webhook-signature"] = signature(secret, entry.id, timestamp, body)
        url, login = _address(self._config.url.get_secret_value())
        if login is not None:
            headers["authorization"] = f"Basic {base64.b64encode(login).decode()}"
        return urllib.request.Request(url, body, headers, method="POST")


def _address(url: str) -> tuple[str, bytes | None]:
    """Where to post, in ASCII and without ``user:password@``; and that, for a Basic login.

    Left in the URL, the library would take the password for a port and say it in its error.
    """
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    place = quote(parts.path or "/", safe=_AS_WRITTEN)
    query = f"?{quote(parts.query, safe=_AS_WRITTEN)}" if parts.query else ""
    return f"{parts.scheme}://{host}{place}{query}", unquote_to_bytes(login) if at else None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A receiver that moved is an error: signed events do not go to addresses nobody wrote down."""

    def redirect_request(self, *_: object) -> None:
        """Refuse."""


def signature(secret: str, event_id: str, timestamp: str, body: bytes) -> str:
    """Sign as Standard Webhooks v1 do: HMAC-SHA256 of id, time (Unix seconds) and body.

    A ``secret`` that begins with ``whsec_`` is base64 after that; another is taken as it is.
    """
    signed = b".".join((event_id.encode(), timestamp.encode(), body))
    digest = hmac.new(signing_key(secret), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
