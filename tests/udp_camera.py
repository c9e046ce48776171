"""A camera that sends RTP over UDP and nothing else, and a network that loses some of it."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av

SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n"
    "a=control:track1\r\n"
)


@dataclass
class Network:
    """What happens to datagrams under way; shares are 0..1, and the same seed does the same."""

    loss: float = 0.0
    reordering: float = 0.0
    delay_s: float = 0.0
    """Each datagram comes late by up to so much."""
    jump_after: int | None = None
    """From so many datagrams on, RTP time is two hours further."""
    seed: int = 0
    lost: int = 0
    passed: int = 0
    _held: bytes | None = None
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def carry(self, datagram: bytes) -> Iterator[bytes]:
        """What comes out at the other end for one more datagram."""
        if self._random.random() < self.loss:
            self.lost += 1
            return
        if self.delay_s:
            time.sleep(self._random.uniform(0.0, self.delay_s))
        self.passed += 1
        if self.jump_after is not None and self.passed > self.jump_after:
            later = int.from_bytes(datagram[4:8], "big") + 2 * 3600 * 90_000
            datagram = datagram[:4] + (later % 2**32).to_bytes(4, "big") + datagram[8:]
        held, self._held = self._held, None
        if held is None and self._random.random() < self.reordering:
            self._held = datagram
            return
        yield datagram
        if held is not None:
            yield held


class UdpCamera:
    """Streams a Transport Stream file in its own time, again and again; one client at a time."""

    def __init__(self, video: Path, network: Network) -> None:
        self._video, self.network = video, network
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._raw = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._raw.bind(("127.0.0.1", 0))
        self._client_port = 0
        self.url = f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}/live"
        self._threads = [
            threading.Thread(target=work) for work in (self._accept, self._encode, self._forward)
        ]

    def __enter__(self) -> UdpCamera:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for open_socket in (self._listener, self._raw):
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
            open_socket.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError):
                connection, _ = self._listener.accept()
                with connection:
                    while request := connection.recv(4096).decode():
                        connection.sendall(self._answer(request).encode())

    def _answer(self, request: str) -> str:
        number = re.search(r"CSeq: (\d+)", request)
        head = f"CSeq: {number[1] if number else 0}\r\nSession: 1\r\n"
        if request.startswith("DESCRIBE"):
            size = f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n\r\n"
            return f"RTSP/1.0 200 OK\r\n{head}{size}{SDP}"
        if request.startswith("SETUP"):
            port = re.search(r"client_port=(\d+)-(\d+)", request)
            if port is None:
                return f"RTSP/1.0 461 Unsupported Transport\r\n{head}\r\n"
            self._client_port = int(port[1])
            ours = self._raw.getsockname()[1]
            head += f"Transport: RTP/AVP/UDP;unicast;{port[0]};server_port={ours}-{ours + 1}\r\n"
        return f"RTSP/1.0 200 OK\r\n{head}Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n\r\n"

    def _encode(self) -> None:
        """Packetize the file into RTP as fast as it was filmed, towards :meth:`_forward`."""
        target = f"rtp://127.0.0.1:{self._raw.getsockname()[1]}"
        with av.open(target, "w", format="rtp") as output:
            began_s, stream, offset = time.monotonic(), None, 0
            while not self._over.is_set():
                with av.open(str(self._video)) as source:
                    if stream is None:
                        stream = output.add_stream_from_template(source.streams.video[0])
                    end = 0
                    first: int | None = None
                    for packet in source.demux(video=0):
                        if packet.size == 0 or self._over.is_set():
                            break
                        first = packet.pts if first is None else first
                        packet.stream = stream
                        packet.pts = packet.dts = packet.pts - first + offset
                        packet.time_base = Fraction(1, 90_000)
                        end = packet.pts + 3600
                        ahead_s = packet.pts / 90_000 - (time.monotonic() - began_s)
                        self._over.wait(max(0.0, ahead_s))
                        with contextlib.suppress(OSError):
                            output.mux(packet)
                    offset = end

    def _forward(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError):
                datagram = self._raw.recv(65536)
                if self._client_port and datagram:
                    for arrived in self.network.carry(datagram):
                        self._raw.sendto(arrived, ("127.0.0.1", self._client_port))
