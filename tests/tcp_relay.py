"""A TCP relay between a camera and us that stalls, resets, encrypts or asks for a password."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import socket
import ssl
import struct
import threading
from dataclasses import dataclass

REALM, NONCE = "camera", "5ccc069c403ebaf9f0171e9517f40e41"


@dataclass(frozen=True)
class Login:
    """The user and password that a relay lets through, asked for as ``scheme`` says."""

    user: str
    password: str
    scheme: str = "Digest"

    @property
    def challenge(self) -> str:
        nonce = f', nonce="{NONCE}"' if self.scheme == "Digest" else ""
        return f'{self.scheme} realm="{REALM}"{nonce}'

    def admits(self, request: str) -> bool:
        """Whether an RTSP request carries the right credentials."""
        given = re.search(rf"^Authorization: {self.scheme} (.*?)\r?$", request, re.MULTILINE)
        if given is None:
            return False
        if self.scheme == "Basic":
            return base64.b64decode(given[1]).decode() == f"{self.user}:{self.password}"
        fields = dict(re.findall(r'(\w+)="([^"]*)"', given[1]))
        own = _md5(f"{self.user}:{REALM}:{self.password}")
        asked = _md5(f"{request.split(' ', 1)[0]}:{fields.get('uri')}")
        return fields.get("response") == _md5(f"{own}:{NONCE}:{asked}")


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


class TcpRelay:
    """Listens on a loopback port and passes on what it is told to, to ``target_port``.

    ``login`` may be changed while it runs. ``tls`` is a server's context.
    """

    def __init__(
        self, target_port: int, login: Login | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._target_port = target_port
        self.login, self._tls = login, tls
        self.refusals = 0
        self._flowing = threading.Event()
        self._flowing.set()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, file: str, scheme: str = "rtsp", credentials: str = "") -> str:
        return f"{scheme}://{credentials}127.0.0.1:{self.port}/{file}?play_count=0"

    def stall(self) -> None:
        """Keep connections open and let nothing through."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def reset(self) -> None:
        """Break every connection off with a TCP reset."""
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                at_once = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
                connection.shutdown(socket.SHUT_RD)
                connection.close()

    def __enter__(self) -> TcpRelay:
        return self

    def __exit__(self, *_: object) -> None:
        self._flowing.set()
        self._listener.close()
        self.reset()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # either side may go at any time: that is the point
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
            with client, socket.create_connection(("127.0.0.1", self._target_port)) as server:
                self._open |= {client, server}
                back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
                back.start()
                self._pump_requests(client, server)
                back.join()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                self._flowing.wait()
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def _pump_requests(self, client: socket.socket, server: socket.socket) -> None:
        pending = b""
        while data := client.recv(4096):
            self._flowing.wait()
            pending += data
            while message := _first_message(pending):
                pending = pending[len(message) :]
                if self.login is None or message[:1] == b"$" or self.login.admits(message.decode()):
                    server.sendall(message)
                else:
                    self.refusals += 1
                    client.sendall(_refusal(message, self.login))
        server.shutdown(socket.SHUT_RDWR)


def _first_message(data: bytes) -> bytes:
    """One whole request or interleaved packet from the front of ``data``; empty when cut."""
    if data[:1] == b"$":
        length = 4 + int.from_bytes(data[2:4], "big") if len(data) >= 4 else len(data) + 1
        return data[:length] if len(data) >= length else b""
    end = data.find(b"\r\n\r\n")
    return data[: end + 4] if end >= 0 else b""


def _refusal(request: bytes, login: Login) -> bytes:
    number = re.search(rb"CSeq: (\d+)", request)
    return (
        b"RTSP/1.0 401 Unauthorized\r\nCSeq: %s\r\n" % (number[1] if number else b"0")
        + f"WWW-Authenticate: {login.challenge}\r\n\r\n".encode()
    )
