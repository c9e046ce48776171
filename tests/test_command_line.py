"""The command line as a shell sees it: completion, colours, pipes, misspelt commands."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

import run_stream

ROOT = Path(__file__).parent.parent
_COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3[0-8]|9[0-7])(?:;\d+)*m")
_PROGRAM = "import sys, run_stream; sys.argv[0] = 'watchword'; run_stream.main()"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", _PROGRAM, *arguments]


def completions(words: str) -> list[str]:
    line = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    environment = {**os.environ, "_WATCHWORD_COMPLETE": "complete_bash", **line}
    done = subprocess.run(
        command(), cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def on_a_terminal(*arguments: str, **environment: str) -> bytes:
    """What a command writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    variables = {"TERM": "xterm-256color", "COLUMNS": "80"}
    known = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    process = subprocess.Popen(
        command(*arguments), cwd=ROOT, env={**known, **variables, **environment},
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # how Linux says that the other end is closed
        pass
    finally:
        os.close(ours)
        process.wait(30)
    return written


def test_shells_complete_commands_and_options() -> None:
    assert completions("watchword se") == ["search"]
    assert {"list", "show", "audit"} <= set(completions("watchword models "))
    assert completions("watchword run --time") == ["--time-zone"]


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--no-such-option")])
def test_no_color_takes_the_colours_away(arguments: tuple[str, ...]) -> None:
    assert _COLOUR.search(on_a_terminal(*arguments))
    assert not _COLOUR.search(on_a_terminal(*arguments, NO_COLOR="1"))


def test_a_pipe_gets_no_control_codes() -> None:
    for arguments in (("--help",), ("models", "show", "default"), ("run", "--no-such-option")):
        done = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, check=False)
        assert done.stdout + done.stderr
        assert b"\x1b" not in done.stdout + done.stderr


def test_a_misspelt_command_is_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        run_stream.main(["seerch", "dog"])
    assert left.value.code == 2 and "'search'" in capsys.readouterr().err
    for name in ("seerch", "demos.mp4"):
        Path(name).write_bytes(b"")
    for source in ("seerch", "demo*", "check1=demos.mp4"):
        with pytest.raises(SystemExit):
            run_stream.main([source])
        assert "is empty" in capsys.readouterr().err


def test_wrong_use_is_one_line_and_a_mistake_of_ours_is_not_taken_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_stream._guarded(["alerts", "snooze", "x", "--for", "99999999999d"]) == 2
    assert "more than a hundred years" in capsys.readouterr().err

    def broken(*_: object, **__: object) -> None:
        raise ValueError("a mistake of ours")

    monkeypatch.setattr(run_stream, "app", broken)
    with pytest.raises(ValueError, match="of ours"):
        run_stream._guarded(["check", "site.yaml"])
