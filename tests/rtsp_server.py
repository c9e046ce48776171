"""A real RTSP server over a folder of real files, for tests."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RtspServer:
    """The server of aio-rtsp-toolkit on a loopback port; start, stop, hang, resume."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self._control_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, file: str, loop: bool = True) -> str:
        return f"rtsp://127.0.0.1:{self.port}/{file}" + ("?play_count=0" if loop else "")

    def start(self, within_s: float = 20.0) -> None:
        program = Path(__file__).with_name("rtsp_server_program.py")
        place = ["--host", "127.0.0.1", "--port", str(self.port)]
        control = ["--control-port", str(self._control_port)]
        self._process = subprocess.Popen(
            [sys.executable, str(program), "--dir", str(self.folder), *place, *control],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                probe.settimeout(0.5)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError("the RTSP server did not start")

    def hang(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def __enter__(self) -> RtspServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
