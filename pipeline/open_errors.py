"""Why a source would not open, in one sentence: looked into only after it failed."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import sys
import time
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from pipeline.login import Login
from pipeline.sources import Source, SourceError, SourceKind, check_source

__all__ = ["OpenError", "explain_device", "explain_file", "explain_network"]

_DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_STATUS = re.compile(rb"(?:RTSP|HTTP)/\d\.\d (\d{3})")
_STALE = re.compile(rb"^WWW-Authenticate:.*\bstale=\"?true", re.IGNORECASE | re.MULTILINE)
_LENGTH = re.compile(rb"^Content-Length:[ \t]*(\d{1,9})", re.IGNORECASE | re.MULTILINE)
_MOST_HEAD_BYTES = 1 << 16
_SNIFF_BYTES = 1 << 20
_RTSP = (SourceKind.RTSP, SourceKind.RTSPS)
_OTHER_WAY = "a camera that speaks UDP alone needs transport: udp, others transport: tcp"


class OpenError(Exception):
    """A source would not open; the text is one sentence without secrets.

    ``refused`` marks what a quick retry cannot mend: a wrong password, no such stream. ``hint`` is
    for a source that has never worked, and part of the text.
    """

    def __init__(self, sentence: str, refused: bool = False, hint: str = "") -> None:
        self.refused = refused
        self.without_hint = sentence
        """For a source that has worked: a server that hung needs no other way to be reached."""
        super().__init__(f"{sentence}; {hint}" if hint else sentence)


def explain_file(source: Source) -> OpenError:
    """Say why a local file holds no video that can be shown."""
    try:
        check_source(source)
    except SourceError as error:
        return OpenError(str(error))
    data = _ends_of(Path(source.location))
    if data[4:8] == b"ftyp" and b"moov" not in data:
        return OpenError(
            f"{source.display}: the file is cut off (its index is missing); copy it "
            "again, or repair it with a tool such as untrunc"
        )
    sound_only = (b"soun" in data and b"vide" not in data) or data[:3] == b"ID3"
    if sound_only or data[:4] == b"fLaC" or data[8:12] == b"WAVE":
        return OpenError(f"{source.display}: holds sound but no picture; give a video file")
    return OpenError(
        f"{source.display}: no video in it can be decoded; is it damaged, or not a "
        "video? `ffprobe` tells more"
    )


def explain_device(source: Source) -> OpenError:
    """Say why a camera of this machine would not open, and which ones there are."""
    path = Path(f"/dev/video{source.location}")
    if sys.platform != "linux":
        return OpenError(f"{source.display} cannot be opened; is it plugged in and free?")
    if not path.exists():
        there = sorted(str(found) for found in Path("/dev").glob("video[0-9]*"))
        known = f"this machine has {', '.join(there)}" if there else "this machine has no camera"
        return OpenError(f"{source.display}: there is no {path}; {known}")
    if not os.access(path, os.R_OK | os.W_OK):
        return OpenError(
            f"{source.display}: {path} may not be read by this user; add it to the group video"
        )
    return OpenError(
        f"{source.display}: {path} gives no picture; does another program use it, or is it no "
        "camera (one camera often has several devices)?"
    )


def explain_network(source: Source, timeout_s: float) -> OpenError:
    """Ask the server why the stream would not open."""
    parts = urlsplit(source.location)
    where = f"{parts.hostname}:{parts.port or _DEFAULT_PORTS[parts.scheme]}"
    try:
        status = _ask(source, timeout_s)
    except socket.gaierror:
        return OpenError(f"{source.display}: the host {parts.hostname} is unknown; check the name")
    except TimeoutError:
        return OpenError(
            f"{source.display}: {where} does not answer within {timeout_s:g} s; is "
            "the camera on and reachable from here?"
        )
    except OSError as error:
        reason = (error.strerror or "no connection").lower()
        return OpenError(
            f"{source.display}: cannot reach {where} ({reason}); is the camera on, "
            "and the port right?"
        )
    return _by_status(source, status, parts.username is not None)


def _by_status(source: Source, status: int | None, with_password: bool) -> OpenError:
    if status in (401, 403) and with_password:
        sentence = "the camera refuses this user or password; correct them"
    elif status in (401, 403):
        sentence = (
            "the camera asks for a user and password; write "
            f"{source.kind.value}://user:password@host/…"
        )
    elif status in (400, 404, 410, 454):
        sentence = "the server has no such stream; check the path"
    elif status is None:
        sentence = f"the server does not speak {source.kind.value}; check the port"
    else:
        return OpenError(
            f"{source.display}: the server answers (status {status}) but gives no video this way",
            hint=_OTHER_WAY if source.kind in _RTSP else "is it a stream and not a web page?",
        )
    return OpenError(f"{source.display}: {sentence}", refused=True)


def _ask(source: Source, timeout_s: float) -> int | None:
    """Status code of a DESCRIBE or GET; None for no such answer.

    A server that asks for a login answers 401 to all who give none, however it does. So it is
    given the login, and only its answer to that says anything. Like FFmpeg, it is sent on the
    connection on which it was asked for, where that is still open.
    """
    parts = urlsplit(source.location)
    login, authorization = Login.of(parts), b""
    with contextlib.ExitStack() as connections:
        connection = connections.enter_context(_connect(parts, timeout_s))
        head = _exchange(connection, parts, authorization)
        for _ in range(2):  # a nonce may have run out by then, and is given anew
            if not _is_refusal(head) or (authorization and not _STALE.search(head)):
                break
            answer = login and login.answer(head, *_request(parts))
            if not answer:
                break
            authorization, head = answer, b""
            with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
                head = _exchange(connection, parts, authorization)
            if not head:
                connection = connections.enter_context(_connect(parts, timeout_s))
                head = _exchange(connection, parts, authorization)
    status = _STATUS.match(head)
    return int(status[1]) if status else None


def _is_refusal(head: bytes) -> bool:
    status = _STATUS.match(head)
    return status is not None and status[1] == b"401"


def _request(parts: SplitResult) -> tuple[str, str]:
    """Method and target of what is asked."""
    if parts.scheme in ("http", "https"):
        return "GET", parts._replace(scheme="", netloc="", path=parts.path or "/").geturl()
    return "DESCRIBE", parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _exchange(connection: socket.socket, parts: SplitResult, authorization: bytes) -> bytes:
    """Send one request and return the head of its answer; a refusal is read past its body."""
    method, target = _request(parts)
    if method == "GET":
        head = f"GET {target} HTTP/1.0\r\nHost: {parts.hostname}\r\n"
    else:
        number = 2 if authorization else 1
        head = f"DESCRIBE {target} RTSP/1.0\r\nCSeq: {number}\r\nAccept: application/sdp\r\n"
    connection.sendall(head.encode("utf-8") + authorization + b"\r\n")
    data, deadline_s = b"", time.monotonic() + (connection.gettimeout() or 0.0)
    while b"\r\n\r\n" not in data and len(data) < _MOST_HEAD_BYTES:
        if time.monotonic() > deadline_s:  # it dribbles
            raise TimeoutError("timed out")
        if not (more := connection.recv(4096)):
            return data
        data += more
        if not b"RTSP/".startswith(data[:5]) and not b"HTTP/".startswith(data[:5]):
            return data  # another protocol, which may have no more to say
    answer, _, body = data.partition(b"\r\n\r\n")
    length = _LENGTH.search(answer)
    left = min(int(length[1]) if length else 0, _MOST_HEAD_BYTES) - len(body)
    asked_again = method == "DESCRIBE" and _is_refusal(answer)
    while asked_again and left > 0 and (more := connection.recv(left)):
        left -= len(more)
    return answer


def _connect(parts: SplitResult, timeout_s: float) -> socket.socket:
    """Connect, over TLS without checking the certificate: FFmpeg did not check it either."""
    host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]
    plain = socket.create_connection((host, port), timeout_s)
    if parts.scheme not in ("rtsps", "https"):
        return plain
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except OSError:
        plain.close()
        raise


def _ends_of(path: Path) -> bytes:
    """Return the first and last MiB, where containers keep their index."""
    with path.open("rb") as file:
        head = file.read(_SNIFF_BYTES)
        file.seek(max(path.stat().st_size - _SNIFF_BYTES, len(head)))
        return head + file.read(_SNIFF_BYTES)
