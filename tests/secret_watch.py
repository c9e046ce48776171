"""Watches the whole test run for planted passwords: a pytest plugin (see ``conftest.py``).

Searched are what each test printed and logged, what it read of subprocesses and of the captured
output, and all files in its temporary folders when it is over. Configuration that a test writes
for the program is input and may hold passwords: files of YAML are left out. A test that leaks
fails, and so does the run; the password itself is not printed again.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer.testing
from planted import needles
from program import Program

_INPUT_SUFFIXES = {".yaml", ".yml"}


class SecretWatch:
    """Collects where a planted password was seen since the last look."""

    def __init__(self) -> None:
        self._needles = needles()
        self._seen: list[str] = []
        self._folders: list[Path] = []

    def look_at(self, text: object, place: str) -> None:
        """Search what a test got to see: text, bytes, or nothing."""
        data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        if isinstance(data, bytes | bytearray | memoryview) and self._in(bytes(data)):
            self._seen.append(place)

    def look_into_later(self, folder: Path) -> None:
        """Search every file below a new folder when the test that made it is over."""
        self._folders.append(folder)

    def look_into_folders(self) -> None:
        """Do what :meth:`look_into_later` promised."""
        for folder in self._folders:
            self._look_into(folder)
        self._folders = []

    def _look_into(self, folder: Path) -> None:
        for parent, _, names in os.walk(folder):
            for path in (Path(parent, name) for name in names):
                # What a server that still ends takes away meanwhile, nobody can read any more.
                with contextlib.suppress(FileNotFoundError):
                    if path.is_file() and path.suffix not in _INPUT_SUFFIXES:
                        self.look_at(path.read_bytes(), f"file {path.relative_to(folder)}")

    def take_seen(self) -> list[str]:
        """Return where passwords were seen, and begin anew."""
        seen, self._seen = self._seen, []
        return seen

    def _in(self, data: bytes) -> bool:
        return any(needle in data for needle in self._needles)


WATCH = SecretWatch()


def pytest_configure(config: pytest.Config) -> None:
    """Look over the shoulder of all by which a test reads output or makes a folder."""
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)

    def watch(owner: type, name: str, see: Callable[[Any], None]) -> None:
        original = getattr(owner, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            found = original(*arguments, **named)
            see(found)
            return found

        patch.setattr(owner, name, watched)

    def both(found: Sequence[object]) -> None:
        for text in found:
            WATCH.look_at(text, "what the test read of a process or of the captured output")

    watch(subprocess.Popen, "communicate", both)
    watch(pytest.CaptureFixture, "readouterr", both)
    watch(Program, "read_until", lambda lines: both([lines]))
    watch(typer.testing.CliRunner, "invoke", lambda done: both([done.output, done.stderr]))
    watch(pytest.TempPathFactory, "mktemp", WATCH.look_into_later)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Search what a test has left when its last fixture is gone."""
    report = yield
    if call.when == "teardown":
        for name, text in report.sections:
            WATCH.look_at(text, name.lower())
        WATCH.look_into_folders()
        if seen := WATCH.take_seen():
            report.outcome = "failed"
            report.longrepr = f"a planted password was seen in: {', '.join(sorted(set(seen)))}"
    return report
