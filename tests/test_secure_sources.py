"""Logins and encryption between a camera and us, with passwords of any characters."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from capture_run import Run
from media import write_video
from planted import ESCAPED_PASSWORD, ODD_PASSWORD, OTHER_PASSWORD, PASSWORD
from rtsp_server import RtspServer
from tcp_relay import Login, TcpRelay

from pipeline.capture import CameraSpec
from pipeline.config import CaptureConfig
from pipeline.login import Login as OurLogin
from pipeline.messages import CameraState
from pipeline.open_errors import explain_network
from pipeline.sources import parse_source

pytestmark = pytest.mark.fault
PASSWORDS = (PASSWORD, ODD_PASSWORD, ESCAPED_PASSWORD)
PATIENT = CaptureConfig(analysis_fps=5, open_timeout_s=20.0, stale_after_s=20.0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RtspServer]:
    write_video(tmp_path / "cam.mp4", [k / 25 for k in range(75)])
    with RtspServer(tmp_path) as running:
        yield running


@pytest.fixture
def self_signed() -> ssl.SSLContext:
    """A camera's certificate, which nobody vouches for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.mark.parametrize("scheme", ["Basic", "Digest"])
@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_of_any_characters_reaches_the_camera(
    server: RtspServer, scheme: str, password: str
):
    login = Login("admin", password, scheme)
    typed = password.replace("%25", "%2525")
    with TcpRelay(server.port, login) as relay:
        source = parse_source(relay.url("cam.mp4", credentials=f"admin:{typed}@"))
        with Run(CameraSpec("cam", source, PATIENT)) as run:
            run.take_until(lambda: run.capture.status()["cam"].up, 40)
    assert relay.refusals >= 1, "the password is sent only when asked for"


@contextmanager
def asking_server(login: Login, status: str, closes: bool = False) -> Iterator[int]:
    """A server that answers ``status`` to the right login, and 401 and a page to all others."""

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5.0)
                    while data := connection.recv(4096).decode():
                        connection.sendall(_answer(data))
                        if closes:
                            break

    def _answer(request: str) -> bytes:
        number = re.search(r"CSeq: \d+", request)
        protocol, head = ("HTTP/1.0", "") if number is None else ("RTSP/1.0", f"{number[0]}\r\n")
        if login.admits(request):
            return f"{protocol} {status}\r\n{head}\r\n".encode()
        head += f"WWW-Authenticate: {login.challenge}\r\nContent-Length: 6\r\n\r\nlogin!"
        return f"{protocol} 401 Unauthorized\r\n{head}".encode()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("scheme", ["Basic", "Digest"])
@pytest.mark.parametrize(
    ("status", "said", "refused"),
    [
        ("503 Service Unavailable", "status 503", False),
        ("200 OK", "status 200", False),
        ("404 Not Found", "no such stream", True),
    ],
)
def test_a_camera_that_takes_the_password_is_not_said_to_refuse_it(
    scheme: str, closes: bool, status: str, said: str, refused: bool
):
    for kind in ("rtsp", "http"):
        with asking_server(Login("admin", ODD_PASSWORD, scheme), status, closes) as port:
            place = f"127.0.0.1:{port}/live?channel=1"
            source = parse_source(f"{kind}://admin:{ODD_PASSWORD}@{place}")
            error = explain_network(source, 5.0)
            wrong = explain_network(parse_source(f"{kind}://admin:{PASSWORD}@{place}"), 5.0)
            none = explain_network(parse_source(f"{kind}://{place}"), 5.0)
        assert said in str(error) and error.refused is refused
        assert "refuses this user or password" in str(wrong) and wrong.refused
        assert "asks for a user and password" in str(none) and none.refused
        assert "st4pleXq" not in str(error) and PASSWORD not in str(wrong)


def test_a_digest_with_a_quality_of_protection_is_the_standards_example(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("secrets.token_hex", lambda _: "0a4f113b")
    login = OurLogin(b"Mufasa", b"Circle Of Life")
    refusal = (
        b"HTTP/1.1 401 Unauthorized\r\n"
        b'WWW-Authenticate: Digest realm="x", nonce="y", algorithm=SHA-256\r\n'
        b'WWW-Authenticate: Basic realm="x"\r\n'
        b'www-authenticate: Digest realm="testrealm@host.com", qop="auth,auth-int", '
        b'nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41"'
    )
    answer = login.answer(refusal, "GET", "/dir/index.html")
    assert answer is not None and b'response="6629fae49393a05397450978507c4ef1"' in answer
    assert b"Life" not in answer and b"Life" not in repr(login).encode()
    assert login.answer(b"HTTP/1.1 401 Unauthorized\r\n", "GET", "/") is None


def test_a_digest_by_sha_256_where_nothing_else_is_asked_for():
    def hashed(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    # The second challenge in the same line has a realm of its own.
    refusal = (
        b'WWW-Authenticate: Digest realm="yard", algorithm=SHA-256, nonce="abc", '
        b'Basic realm="other"\r\n'
    )
    answer = OurLogin(b"me", b"secret").answer(refusal, "DESCRIBE", "rtsp://h/x")
    right = hashed(f"{hashed('me:yard:secret')}:abc:{hashed('DESCRIBE:rtsp://h/x')}")
    assert answer is not None and f'response="{right}"'.encode() in answer
    assert b"algorithm=SHA-256" in answer


def test_what_speaks_another_protocol_is_told_at_once():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"SSH-2.0-server\r\n")
                connection.recv(4096)
                connection.recv(4096)

        threading.Thread(target=greet, daemon=True).start()
        source = parse_source(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/x")
        assert "does not speak rtsp; check the port" in str(explain_network(source, 20.0))


def test_a_server_that_dribbles_its_answer_is_not_waited_for_to_its_end():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def dribble() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"RTSP/1.0 200 OK\r\n")
                for _ in range(200):  # never longer without a byte than the time-out
                    connection.sendall(b"x")
                    time.sleep(0.05)

        threading.Thread(target=dribble, daemon=True).start()
        source = parse_source(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/x")
        assert "does not answer within 1 s" in str(explain_network(source, 1.0))


@pytest.mark.parametrize("key_frames_only", [False, True])
def test_rtsp_over_tls_with_a_self_signed_certificate(
    server: RtspServer, self_signed: ssl.SSLContext, key_frames_only: bool
):
    login = Login("admin", PASSWORDS[1])
    config = PATIENT.model_copy(update={"key_frames_only": key_frames_only})
    with TcpRelay(server.port, login, self_signed) as relay:
        url = relay.url("cam.mp4", "rtsps", f"admin:{PASSWORDS[1]}@")
        with Run(CameraSpec("cam", parse_source(url), config)) as run:
            run.take_until(lambda: run.capture.status()["cam"].up, 40)
            assert run.capture.accounts()["cam"].balanced


def test_a_wrong_password_over_tls_is_told_as_such(server: RtspServer, self_signed: ssl.SSLContext):
    with TcpRelay(server.port, Login("admin", PASSWORD), self_signed) as relay:
        url = relay.url("cam.mp4", "rtsps", f"admin:{OTHER_PASSWORD}@")
        with Run(CameraSpec("cam", parse_source(url), PATIENT)) as run:
            run.take_until(lambda: "cam" in run.capture.errors(), 40)
            assert "refuses this user or password" in run.capture.errors()["cam"]


def test_a_changed_password_is_followed_and_the_other_camera_is_not_touched(server: RtspServer):
    with TcpRelay(server.port, Login("admin", PASSWORD)) as relay:
        old = parse_source(relay.url("cam.mp4", credentials=f"admin:{PASSWORD}@"))
        new = parse_source(relay.url("cam.mp4", credentials=f"admin:{OTHER_PASSWORD}@"))
        spec = CameraSpec("cam", old, PATIENT)
        other = CameraSpec("other", parse_source(server.url("cam.mp4")), PATIENT)
        with Run(spec, other) as run:
            run.take_until(lambda: all(s.up for s in run.capture.status().values()), 40)
            pid = run.child_pid("other")
            relay.login = Login("admin", OTHER_PASSWORD)
            relay.reset()
            run.take_until(lambda: "refuses" in run.capture.errors().get("cam", ""), 40)
            run.capture.alter(changed=(replace(spec, source=new),))
            run.take_until(lambda: run.capture.status()["cam"].up, 40)
            assert run.child_pid("other") == pid
            assert run.capture.status()["other"].reconnects == 0
    told = [event.state for event in run.events if event.camera == "cam"]
    assert told == [CameraState.OFFLINE, CameraState.ONLINE]
