"""Cameras for benchmarks at next to no cost: python -m benchmarks.replay_server FILE...

Serves H.264 files as live RTSP cameras (RFC 2326) with RTP over the same TCP connection (RFC 6184,
packetization mode 1), each file again and again. All RTP packets are made before the first client
comes; a frame is then one copy, its sequence numbers and timestamps written in, and one send. Every
client is a camera of its own: it begins with another key frame than the one before, and not at once
but after a wait of up to the time from one key frame to the next, 3.5 seconds at most. So the
cameras' key frames do not come all together.

A real camera's server is the camera. What this one costs is small, but not nothing, and is told
beside what is measured; it takes a higher priority where it may, as a camera is not slowed by those
who watch it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import av

__all__ = ["Recording", "Serving", "load", "main", "packetize", "serving"]

_CLOCK_HZ = 90_000
_PAYLOAD_BYTES = 1400
_FRAGMENT = 28  # FU-A
_GOLDEN = 0.6180339887  # multiples of it, modulo one, are spread evenly however many there are
_MOST_WAITING_BYTES = 1 << 20
_LONGEST_WAIT_S = 3.5  # a program waits five seconds for a first picture, unless told otherwise
_PRIORITY = -10
_SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=replay\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
    "a=range:npt=now-\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    "a=fmtp:96 packetization-mode=1;sprop-parameter-sets={sets}\r\na=control:track1\r\n"
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One access unit, ready to send but for the numbers of the client."""

    due_s: float
    ticks: int
    """Its RTP time since the file's start."""
    packets: bytes
    headers: tuple[int, ...]
    """Where in ``packets`` the sequence number of each RTP packet lies."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A file's frames in the order of sending, and where its key frames are."""

    frames: tuple[Frame, ...]
    keys: tuple[int, ...]
    duration_s: float
    sdp: bytes

    def start(self, phase: float) -> tuple[int, float]:
        """Return the key frame with which a camera of a phase, 0..1, begins, and after how long."""
        position = phase * len(self.keys)
        longest_s = min(_LONGEST_WAIT_S, self.duration_s / len(self.keys))
        return self.keys[int(position)], position % 1.0 * longest_s


def packetize(unit: bytes) -> Iterator[bytes]:
    """RTP payloads of one NAL unit (RFC 6184, 5.6 and 5.8)."""
    if len(unit) <= _PAYLOAD_BYTES:
        yield unit
        return
    indicator, kind = unit[0] & 0x60 | _FRAGMENT, unit[0] & 0x1F
    for start in range(1, len(unit), _PAYLOAD_BYTES - 2):
        end = start + _PAYLOAD_BYTES - 2
        edge = (start == 1) << 7 | (end >= len(unit)) << 6
        yield bytes((indicator, edge | kind)) + unit[start:end]


def load(file: Path) -> Recording:
    """Make every packet of a file.

    Raises:
        SystemExit: It holds no H.264 in the form in which MP4 and Matroska keep it.

    """
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        extra = bytes(stream.codec_context.extradata or b"")
        if stream.codec_context.name != "h264" or extra[:1] != b"\x01":
            raise SystemExit(f"{file}: only H.264 in MP4 or Matroska can be served")
        packets = [packet for packet in container.demux(stream) if packet.size]
        base = float(stream.time_base or 1)
        nominal_s = 1.0 / float(stream.average_rate or 25)
    first_s = float(packets[0].dts) * base
    shown_s = min(float(packet.pts) * base for packet in packets)
    frames = [
        _frame(
            _units(bytes(packet), (extra[4] & 3) + 1),
            float(packet.dts) * base - first_s,
            round((float(packet.pts) * base - shown_s) * _CLOCK_HZ),
        )
        for packet in packets
    ]
    keys = tuple(i for i, packet in enumerate(packets) if packet.is_keyframe)
    sets = ",".join(base64.b64encode(one).decode() for one in _parameter_sets(extra))
    duration_s = frames[-1].due_s + nominal_s
    return Recording(tuple(frames), keys, duration_s, _SDP.format(sets=sets).encode())


def _frame(units: Sequence[bytes], due_s: float, ticks: int) -> Frame:
    payloads = [payload for unit in units for payload in packetize(unit)]
    packets, headers = bytearray(), []
    for number, payload in enumerate(payloads, 1):
        marker = (number == len(payloads)) << 7
        packets += struct.pack(">cBH", b"$", 0, 12 + len(payload))
        headers.append(len(packets) + 2)
        packets += struct.pack(">BBHII", 0x80, marker | 96, 0, 0, 1) + payload
    return Frame(due_s, ticks, bytes(packets), tuple(headers))


def _units(packet: bytes, length_bytes: int) -> list[bytes]:
    """NAL units of a packet in which each has its length before it (ISO 14496-15)."""
    units, at = [], 0
    while at < len(packet):
        begin = at + length_bytes
        at = begin + int.from_bytes(packet[at:begin], "big")
        units.append(packet[begin:at])
    return units


def _parameter_sets(extra: bytes) -> list[bytes]:
    """SPS and PPS out of an ``avcC`` box (ISO 14496-15, 5.3.3.1.2)."""
    sets, at = [], 5
    for mask in (0x1F, 0xFF):
        units, at = extra[at] & mask, at + 1
        for _ in range(units):
            begin = at + 2
            at = begin + int.from_bytes(extra[at:begin], "big")
            sets.append(extra[begin:at])
    return sets


class _Client(asyncio.Protocol):
    """One connection: answers its requests and, once it plays, sends it frames as they fall due."""

    def __init__(self, recordings: dict[str, Recording], phases: Iterator[float]) -> None:
        self._recordings = recordings
        self._phases = phases
        self._loop = asyncio.get_running_loop()
        self._heard = b""
        self._recording: Recording | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sequence = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._heard += data
        while self._heard:
            if self._heard[:1] == b"$":  # the client's RTCP: of no interest
                end = 4 + int.from_bytes(self._heard[2:4], "big")
                if len(self._heard) < max(4, end):
                    return
            else:
                end = self._heard.find(b"\r\n\r\n") + 4
                if end < 4:
                    return
                self._answer(self._heard[:end].decode(errors="replace"))
            self._heard = self._heard[end:]

    def _answer(self, request: str) -> None:
        method, _, rest = request.partition(" ")
        number = re.search(r"CSeq: *(\d+)", request, re.IGNORECASE)
        head, body, status = [f"CSeq: {number[1] if number else 0}", "Session: 1"], b"", "200 OK"
        if method == "OPTIONS":
            head.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, TEARDOWN")
        elif method == "DESCRIBE":
            name = rest.split(" ")[0].split("?")[0].rstrip("/").rsplit("/", 1)[-1]
            self._recording = self._recordings.get(name)
            if self._recording is None:
                status = "404 Not Found"
            else:
                body = self._recording.sdp
                head += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        elif method == "SETUP":
            if "interleaved=" in request:
                head.append("Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
            else:
                status = "461 Unsupported Transport"
        elif method == "PLAY" and self._recording is not None and self._timer is None:
            first = self._play(self._recording)
            head.append(f"RTP-Info: url={rest.split(' ')[0]};seq=0;rtptime={first.ticks}")
        self._transport.write("\r\n".join([f"RTSP/1.0 {status}", *head, "", ""]).encode() + body)
        if method == "TEARDOWN":
            self._transport.close()

    def _play(self, recording: Recording) -> Frame:
        key, wait_s = recording.start(next(self._phases))
        due_s = self._loop.time() + wait_s
        began_s = due_s - recording.frames[key].due_s
        self._timer = self._loop.call_at(due_s, self._send, recording, key, began_s, 0)
        return recording.frames[key]

    def _send(self, recording: Recording, index: int, began_s: float, ticks: int) -> None:
        """Send a frame of a round that began at ``began_s`` and at RTP time ``ticks``."""
        frame = recording.frames[index]
        # A client that does not read loses frames, as it would of a camera.
        if self._transport.get_write_buffer_size() < _MOST_WAITING_BYTES:
            packets, time = bytearray(frame.packets), (ticks + frame.ticks) % 2**32
            for number, at in enumerate(frame.headers, self._sequence):
                struct.pack_into(">HI", packets, at, number % 2**16, time)
            self._transport.write(packets)
        self._sequence += len(frame.headers)
        index += 1
        if index == len(recording.frames):
            index, began_s = 0, began_s + recording.duration_s
            ticks += round(recording.duration_s * _CLOCK_HZ)
        due_s = began_s + recording.frames[index].due_s
        self._timer = self._loop.call_at(due_s, self._send, recording, index, began_s, ticks)


async def _serve(recordings: dict[str, Recording], port: int) -> None:
    phases = (number * _GOLDEN % 1.0 for number in count())
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Client(recordings, phases), "127.0.0.1", port)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that runs."""

    port: int
    pid: int

    def url(self, file: Path) -> str:
        """Where one of its files plays."""
        return f"rtsp://127.0.0.1:{self.port}/{file.name}"


@contextlib.contextmanager
def serving(files: Sequence[Path], port: int = 0) -> Iterator[Serving]:
    """Run a server over some files in a process of its own; port 0 is any that is free."""
    command = [sys.executable, "-m", "benchmarks.replay_server", "--port", str(port)]
    server = subprocess.Popen([*command, *map(str, files)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield Serving(int(server.stdout.readline()), server.pid)
    finally:
        server.kill()
        server.wait()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--port", type=int, default=0, help="default: any; it is printed")
    options = parser.parse_args()
    recordings = {file.name: load(file) for file in options.files}
    with contextlib.suppress(PermissionError):
        os.nice(_PRIORITY)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(recordings, options.port))


if __name__ == "__main__":
    main()
