"""Bad input to the whole program: one clear line, the right exit code, nothing half-written."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import pytest
import typer
from planted import PASSWORD
from program import (
    CLIPS,
    DEMO_RULES,
    ROOT,
    assert_books_balance,
    assert_one_line,
    json_lines,
    program,
    watchword,
)

from pipeline.alerts import EmbeddedRedis
from pipeline.commands.check import check
from pipeline.store import Store
from pipeline.yaml_models import ConfigError

WEIGHTS = ROOT / "models" / "weights" / "default"
RTSP_401 = (
    b"RTSP/1.0 401 Unauthorized\r\nCSeq: 1\r\n"
    b'WWW-Authenticate: Basic realm="camera"\r\nContent-Length: 0\r\n\r\n'
)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.mp4", None, "no such file; check the path"),
        ("text.mp4", b"no video\n" * 50, "is text, not a video; give a video file"),
        ("empty.mp4", b"", "is empty (0 bytes); record or copy it again"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, name: str, content: bytes | None, said: str):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = watchword("run", tmp_path / name, "--output", tmp_path / "out")
    assert_one_line(done, 2, name, said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "source", [".", "concat:a|b", "subfile,,start,0,,:a", "file:///etc/passwd"]
)
def test_folders_without_images_and_strange_schemes_are_refused(tmp_path: Path, source: str):
    given = tmp_path if source == "." else source
    assert_one_line(watchword("run", given, "--output", tmp_path / "out"), 2, "give")
    assert not (tmp_path / "out").exists()


def test_wrong_files_and_options_are_refused_before_anything_starts(tmp_path: Path):
    rules, config = tmp_path / "rules.yaml", tmp_path / "config.yaml"
    rules.write_text('rules:\n  - name: a\n    severity: info\n    regex: ["(?=x)gun"]\n')
    config.write_text("capture:\n  analysis_fsp: 2\n")
    arguments_and_what_is_said = (
        (["--rules", rules], "rules.yaml:4: "),
        (["--config", config], "config.yaml:2: unknown key 'capture.analysis_fsp'; did you mean"),
        (["--config", tmp_path / "none.yaml"], "no such file"),
        (["--format", "vtt,doc"], "format"),
        (["--output", rules], "there is a file of that name; choose another --output"),
        (["--output", rules / "out"], "part of the path is a file; choose another --output"),
        (["--start-time", "soon"], "--start-time: 'soon' is not a time"),
        (["--time-zone", "Mars/Base"], "unknown time zone 'Mars/Base'; names look like Europe"),
        (["--redis-url", f"http://x:{PASSWORD}@y"], "redis://"),
    )
    for arguments, said in arguments_and_what_is_said:
        done = watchword("run", CLIPS / "bikes.mp4", "--output", tmp_path / "out", *arguments)
        assert_one_line(done, 2, said)
        assert PASSWORD not in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_unknown_log_level_is_refused():
    assert_one_line(watchword("check", DEMO_RULES, WATCHWORD_LOG="loud"), 2, "LOUD: give DEBUG")


def test_check_tells_the_same_of_a_configuration(tmp_path: Path):
    config = tmp_path / "config.yaml"
    config.write_text("capture:\n  analysis_fsp: 2\nmodle:\n  name: x\n")
    done = watchword("check", config)
    assert done.returncode == 2
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == [
        f"{config}:2",
        f"{config}:3",
    ]


def test_check_tells_of_cameras_and_rules_together_with_their_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "rules: {file: none.yaml}\ncameras:\n"
        f"  gate:\n    source: {tmp_path / 'none.mp4'}\n  yard:\n    source: rtsp://10.0.0.5/s\n"
        "    start_time: soon\n"
    )
    with pytest.raises(ConfigError) as found:
        check(config)
    assert [(each.line, each.message.split(": ")[0]) for each in found.value.problems] == [
        (4, "camera gate"), (1, "rules.file")
    ]  # fmt: skip
    with pytest.raises(typer.Exit) as left:
        check(config, json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert left.value.exit_code == 2 and [line["line"] for line in lines] == [4, 1]
    config.write_text("cameras:\n  gate: {source: 'ftp://x/y'}\nmodel:\n  analysis_fps: 3\n")
    with pytest.raises(ConfigError) as found:
        check(config)
    assert [each.line for each in found.value.problems] == [2, 4]
    assert "did you mean 'capture.analysis_fps'?" in found.value.problems[1].message


def test_check_says_what_a_good_file_holds(capsys: pytest.CaptureFixture[str]) -> None:
    check(DEMO_RULES)
    assert re.search(r": good \(rules: [1-9]\d*\)$", capsys.readouterr().out.strip())


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_corrupt_checkpoint_is_named(tmp_path: Path, damage: str):
    model = tmp_path / "model"
    if damage != "missing":
        shutil.copytree(WEIGHTS, model)
        weights = model / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[len(data) // 2] ^= 0xFF
        weights.write_bytes(data)
    done = watchword("run", CLIPS / "bikes.mp4", "--output", tmp_path / "out", "--model", model)
    assert_one_line(done, 2 if damage == "missing" else 1, str(model))
    assert not (tmp_path / "out").exists()


def test_recordings_that_cannot_be_read_leave_no_file_and_cost_the_others_nothing(tmp_path: Path):
    whole = (CLIPS / "bikes.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # its index stood at the end
    motion_jpeg = cv2.VideoWriter.fourcc(*"MJPG")
    cv2.VideoWriter(str(tmp_path / "blank.avi"), motion_jpeg, 25, (64, 48)).release()
    output = tmp_path / "out"
    done = watchword(
        *("run", tmp_path / "cut.mp4", tmp_path / "blank.avi"),
        *(f"car={CLIPS / 'carphone_pristine.mp4'}", "--rules", DEMO_RULES),
        *("--output", output, "--json"),
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("watchword: ")]
    assert sorted(errors) == [
        f"watchword: {tmp_path}/blank.avi: not one picture in it can be decoded; is it damaged?",
        f"watchword: {tmp_path}/cut.mp4: the file is cut off (its index is missing); copy it "
        "again, or repair it with a tool such as untrunc",
    ]
    assert len(done.stderr.splitlines()) == len(errors) + 1  # and which model, which Redis
    beside_the_store = {path.name for path in output.iterdir() if "sqlite3" not in path.name}
    assert beside_the_store == {"car.vtt", "car.jsonl", "car.events.jsonl", "summary.json"}
    summary = json_lines(done.stdout)[-1]
    assert_books_balance(summary)
    assert {c["camera"]: c["windows"]["captioned"] for c in summary["cameras"]} == {
        **{"cut": 0, "blank": 0},
        "car": 4,
    }


@contextmanager
def refusing_camera() -> Iterator[int]:
    """A server that answers 401 to every request, whatever the password."""

    def answer(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                while connection.recv(4096):
                    connection.sendall(RTSP_401)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1]


@pytest.mark.fault
def test_unreachable_and_refusing_cameras_are_told_once_and_the_secret_never(tmp_path: Path):
    output = tmp_path / "out"
    with (
        refusing_camera() as port,
        program(
            *("run", f"away=rtsp://admin:{PASSWORD}@127.0.0.1:1/live"),
            *(f"refused=rtsp://admin:{PASSWORD}@127.0.0.1:{port}/live", "--output", output),
            "--json",
            WATCHWORD_LOG="DEBUG",
        ) as running,
    ):
        running.read_until('"type": "watchword.camera.offline"', times=2)
        running.process.send_signal(signal.SIGINT)
        done = running.finish()
        assert not running.left_behind()
    assert done.returncode == 130, done.stderr
    told = sorted(
        line
        for line in done.stderr.splitlines()
        if line.startswith("WARNING ") and "no new frame for" not in line  # a starved machine
    )
    assert len(told) == 2, done.stderr
    assert "away: rtsp://***@127.0.0.1:1/live: cannot reach 127.0.0.1:1" in told[0]
    assert "the camera refuses this user or password; correct them" in told[1]
    written = "".join(path.read_text("latin-1") for path in output.iterdir())
    assert PASSWORD not in done.stdout + done.stderr + written
    assert "Traceback" not in done.stderr


def test_alerts_outlive_a_redis_that_is_not_there(tmp_path: Path):
    done = watchword(
        *("run", f"car={CLIPS / 'carphone_pristine.mp4'}", "--rules", DEMO_RULES),
        *("--output", tmp_path, "--json", "--redis-url", f"redis://:{PASSWORD}@127.0.0.1:1/0"),
    )
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    assert "alerts wait in the outbox" in done.stderr
    assert json_lines(done.stdout)[-1]["total"]["windows"]["captioned"] == 4
    printed = [x["id"] for x in json_lines(done.stdout) if x["type"].startswith("watchword.alert")]
    assert printed
    store = Store(tmp_path / "watchword.sqlite3")
    waiting = [entry.id for entry in store.pending()]
    store.close()
    assert waiting == printed


def test_a_server_binary_that_does_not_start_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    broken = tmp_path / "valkey-server"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("pipeline.alerts.server._binary", lambda: broken)
    server = EmbeddedRedis()
    with pytest.raises(Exception, match="give --redis-url"):
        server.start()
    assert server.pid is None
