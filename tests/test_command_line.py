"""The command line as a shell sees it: completion, colours, pipes, misspelt commands."""

from __future__ import annotations

import importlib.metadata
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

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


def test_no_color_takes_the_colours_away() -> None:
    assert _COLOUR.search(on_a_terminal("--help"))
    assert not _COLOUR.search(on_a_terminal("--help", NO_COLOR="1"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rules", "test"], "Missing option '--captions'; see '"),
        (["run", "--runtim", "auto", "x.mp4"], "No such option: --runtim"),
        (["run", "--beam-size", "99", "x.mp4"], "'--beam-size'"),
        (["run", "--device", "tpu", "x.mp4"], "--device: is none of auto, cpu, cuda"),
        (["run", "--format", "vtt,doc", "x.mp4"], "--format: must be 'vtt', "),
        (["run", "--model", "m", "--captions-per-second", "0", "x.mp4"], "--captions-per-second: "),
        (["alerts", "aknowledge"], "No such command 'aknowledge'"),
        (["search", "dog", "--store", "none.sqlite3"], "none.sqlite3: no store there"),
    ],
)
def test_wrong_use_is_one_line_that_names_the_option(
    arguments: list[str], said: str, capsys: Any
) -> None:
    with pytest.raises(SystemExit) as left:
        run_stream.main(arguments)
    shown = capsys.readouterr()
    assert (left.value.code, shown.out, shown.err.count("\n")) == (2, "", 1)
    assert said in shown.err and shown.err.startswith("watchword: ")


def test_no_command_shows_the_help_and_no_error(capsys: Any) -> None:
    for arguments in ([], ["rules"]):
        with pytest.raises(SystemExit) as left:
            run_stream.main(arguments)
        shown = capsys.readouterr()
        assert left.value.code == 2 and "Commands" in shown.out + shown.err
        assert "watchword: " not in shown.err


def test_every_option_says_what_it_is_for() -> None:
    groups = [typer.main.get_group(run_stream.app)]
    while groups:
        for name, command in groups.pop().commands.items():
            if isinstance(command, TyperGroup):
                groups.append(command)
            assert [each.name for each in command.params if not each.help] == [], name


def test_the_version_is_that_of_the_package(capsys: Any) -> None:
    with pytest.raises(SystemExit) as left:
        run_stream.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"watchword {importlib.metadata.version('watchword')}\n"


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
    with pytest.raises(SystemExit):
        run_stream.main(["report"])
    assert "no command and no file; `watchword --help`" in capsys.readouterr().err
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
