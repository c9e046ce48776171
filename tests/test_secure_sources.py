"""Logins and encryption between a camera and us, with passwords of any characters."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
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
from pipeline.messages import CameraState
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
