"""``/metrics``, ``/healthz`` and ``/readyz`` over HTTP; on the loopback interface by default."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from pipeline.errors import WrongUse

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

__all__ = ["Checks", "HealthError", "HealthServer"]

Checks = Mapping[str, Callable[[], str | None]]
"""By name, what must hold: None when it does, else one sentence, free of secrets."""


class HealthError(WrongUse):
    """The health endpoint cannot be opened: one sentence with what to do."""


class HealthServer:
    """Answers in threads of its own; nothing it does can hold up the pipeline.

    Args:
        host: Address to bind.
        port: Port to bind, 0 for any that is free (see :attr:`port`).
        registry: What ``/metrics`` shows.
        alive: Checks of ``/healthz``: when one fails, the process is to be replaced.
        ready: Checks of ``/readyz``: whether the run does its work now.

    Raises:
        HealthError: The port is taken or the address is none of this machine's.

    """

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, alive: Checks, ready: Checks
    ) -> None:
        pages = {
            "/metrics": make_wsgi_app(registry),
            "/healthz": _page(alive),
            "/readyz": _page(ready),
        }
        try:
            self._server = make_server(
                host, port, _routes(pages), ThreadingWSGIServer, handler_class=_Silent
            )
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise HealthError(
                f"metrics cannot be served on {host}:{port} ({reason}); choose another metrics.port"
            ) from None
        self.host, self.port = host, int(self._server.server_port)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="watchword-health", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Answer no more. Idempotent."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Silent(WSGIRequestHandler):
    """Prints no line a request."""

    timeout = 10.0

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def _routes(pages: Mapping[str, WSGIApplication]) -> WSGIApplication:
    def answer(environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        page = pages.get(environ.get("PATH_INFO", "/"))
        if page is None:
            return _reply(start, "404 Not Found", {"pages": sorted(pages)})
        return page(environ, start)

    return answer


def _page(checks: Checks) -> WSGIApplication:
    def answer(_environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        found = {name: check() for name, check in checks.items()}
        good = not any(found.values())
        body = {"ok": good, "checks": {name: why or "good" for name, why in found.items()}}
        return _reply(start, "200 OK" if good else "503 Service Unavailable", body)

    return answer


def _reply(start: StartResponse, status: str, body: Mapping[str, Any]) -> Iterable[bytes]:
    data = json.dumps(body, ensure_ascii=False).encode("utf-8") + b"\n"
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(data)))])
    return [data]
