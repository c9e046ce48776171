"""Live cameras that speak HTTP: motion JPEG, and endless streams of bytes."""

from __future__ import annotations

import http.server
import itertools
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
from media import picture

MJPEG = "/live.mjpg"
_PIECE_BYTES = 1316  # seven packets of a transport stream


@contextmanager
def web_server(folder: Path, bytes_a_second: float = 0.0) -> Iterator[int]:
    """Files of a folder, ``/live.mjpg``, and below ``/loop/`` a file again and again, at a pace.

    What loops has no end, and its timestamps begin anew with each round.
    """

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))

        def do_GET(self) -> None:
            if self.path == MJPEG:
                self._stream("multipart/x-mixed-replace; boundary=frame", _pictures(), 0.04)
            elif self.path.startswith("/loop/"):
                data = (folder / self.path.removeprefix("/loop/")).read_bytes()
                pause_s = _PIECE_BYTES / bytes_a_second
                self._stream("application/octet-stream", _pieces(data), pause_s)
            else:
                super().do_GET()

        def _stream(self, kind: str, parts: Iterable[bytes], pause_s: float) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            for part in parts:
                try:
                    self.wfile.write(part)
                except OSError:
                    return
                threading.Event().wait(pause_s)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _pictures() -> Iterator[bytes]:
    for number in range(500):
        _, jpeg = cv2.imencode(".jpg", picture(number % 256, 128, 96))
        head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
        yield head % len(jpeg) + jpeg.tobytes() + b"\r\n"


def _pieces(data: bytes) -> Iterator[bytes]:
    for _ in itertools.count():
        for start in range(0, len(data), _PIECE_BYTES):
            yield data[start : start + _PIECE_BYTES]
