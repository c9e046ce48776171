"""A Valkey server with settings of a test's own, on a TCP port; and TLS in front of one."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from pipeline.alerts.server import _binary


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def valkey(directory: Path, *arguments: str, port: int | None = None) -> Iterator[int]:
    """Run the server in a directory until the block ends; give its port."""
    port = port or free_port()
    command = [str(_binary()), *arguments, "--port", str(port), "--bind", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--dir", str(directory)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(port)
        yield port
    finally:
        process.kill()
        process.wait()


def _wait(port: int) -> None:
    deadline = time.monotonic() + 10
    with redis.Redis(port=port, socket_timeout=1.0) as client:
        while time.monotonic() < deadline:
            with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
                with contextlib.suppress(redis.AuthenticationError):
                    client.ping()
                return
            time.sleep(0.02)
    raise AssertionError("valkey-server does not start")


@contextlib.contextmanager
def tls_in_front(port: int, context: ssl.SSLContext) -> Iterator[int]:
    """Accept TLS on a port of its own and pass everything on to ``port``."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve() -> None:
        listener.settimeout(0.1)
        while not stop.is_set():
            with contextlib.suppress(OSError):
                raw, _ = listener.accept()
                threading.Thread(target=_join, args=(raw, context, port), daemon=True).start()

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        stop.set()
        server.join()
        listener.close()


def _join(raw: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with contextlib.suppress(OSError):
        outer = context.wrap_socket(raw, server_side=True)
        inner = socket.create_connection(("127.0.0.1", port))
        back = threading.Thread(target=_pump, args=(inner, outer), daemon=True)
        back.start()
        _pump(outer, inner)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
