"""The cameras that benchmarks watch: the right pictures, no faster than they were filmed."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media import number_in, write_video

from benchmarks.replay_server import Recording, Serving, load, packetize, serving

FRAMES, GOP, PERIOD_S = 36, 12, 0.04


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    return write_video(folder / "a.mp4", [i * PERIOD_S for i in range(FRAMES)], (640, 480), GOP)


@pytest.fixture
def server(video: Path) -> Iterator[Serving]:
    with serving([video]) as running:
        yield running


def camera(server: Serving, video: Path) -> cv2.VideoCapture:
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "rtsp_transport;tcp"
    capture = cv2.VideoCapture(server.url(video), cv2.CAP_FFMPEG)
    assert capture.isOpened()
    return capture


@given(st.binary(min_size=1, max_size=6000))
def test_a_unit_comes_out_of_its_packets_as_it_went_in(unit: bytes) -> None:
    payloads = list(packetize(unit))
    assert all(len(payload) <= 1400 for payload in payloads)
    if len(payloads) == 1:
        assert payloads == [unit]
        return
    assert {payload[0] & 0x1F for payload in payloads} == {28}
    assert [payload[1] >> 6 for payload in payloads] == [2, *[0] * (len(payloads) - 2), 1]
    header = payloads[0][0] & 0xE0 | payloads[0][1] & 0x1F
    assert (
        bytes([header]) + b"".join(payload[2:] for payload in payloads)
        == bytes([unit[0] & 0x7F]) + unit[1:]
    )


def test_pictures_come_in_order_round_after_round_and_never_early(
    server: Serving, video: Path
) -> None:
    capture, began_s = camera(server, video), time.monotonic()
    numbers, positions_s = [], []
    for _ in range(2 * FRAMES + 5):
        ok, image = capture.read()
        assert ok
        numbers.append(number_in(image))
        positions_s.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    capture.release()
    steps_s = [after - before for before, after in pairwise(positions_s)]
    assert steps_s[1:] == pytest.approx([PERIOD_S] * (len(steps_s) - 1), abs=2e-3)
    assert numbers[0] % GOP == 0  # a key frame
    assert numbers == [(numbers[0] + i) % FRAMES for i in range(len(numbers))]
    # What came while the stream was opened, at most a round, is read at once.
    assert time.monotonic() - began_s >= (FRAMES + 5) * PERIOD_S


def test_a_camera_that_comes_back_begins_with_a_key_frame(server: Serving, video: Path) -> None:
    for _ in range(3):
        capture = camera(server, video)
        assert number_in(capture.read()[1]) % GOP == 0
        capture.release()


@pytest.fixture(scope="module")
def recording(video: Path) -> Recording:
    return load(video)


@given(phase=st.floats(0.0, 1.0, exclude_max=True))
def test_a_camera_begins_with_a_key_frame_within_the_time_between_two(
    recording: Recording, phase: float
) -> None:
    key, wait_s = recording.start(phase)
    assert key % GOP == 0
    assert 0.0 <= wait_s <= GOP * PERIOD_S + 1e-6


def test_cameras_begin_with_different_key_frames(recording: Recording) -> None:
    thirds = {recording.start(phase / 9)[0] for phase in range(9)}
    assert thirds == {0, GOP, 2 * GOP}


def test_one_who_does_not_read_keeps_no_other_camera_from_playing(
    server: Serving, video: Path
) -> None:
    url = server.url(video)
    with socket.create_connection(("127.0.0.1", server.port)) as deaf:
        for request in ("DESCRIBE {} RTSP/1.0", "PLAY {} RTSP/1.0"):
            deaf.sendall(f"{request.format(url)}\r\nCSeq: 1\r\n\r\n".encode())
        capture = camera(server, video)
        assert all(capture.grab() for _ in range(FRAMES))
        capture.release()


def test_what_is_not_there_is_refused(server: Serving, video: Path) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        for request, status in (
            ("DESCRIBE rtsp://127.0.0.1/b.mp4", b"404"),
            ("DESCRIBE rtsp://127.0.0.1/a.mp4", b"200"),
            ("SETUP rtsp://127.0.0.1/a.mp4", b"461"),  # over UDP
        ):
            client.sendall(f"{request} RTSP/1.0\r\nCSeq: 7\r\n\r\n".encode())
            answer = client.recv(4096)
            assert answer.startswith(b"RTSP/1.0 " + status)
            assert b"CSeq: 7\r\n" in answer
    other = write_video(video.parent / "b.mp4", [0.0, 0.1], codec="mpeg4")
    with pytest.raises(SystemExit, match=r"b\.mp4"):
        load(other)
