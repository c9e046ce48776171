"""The whole program under faults: stops, kills and hangs; nothing of it may stay behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import CLIPS, DEMO_RULES, ROOT, Program, assert_books_balance, json_lines, program
from rtsp_server import RtspServer
from waiting import until

from benchmarks.program import streamed_ids
from pipeline.alerts import EmbeddedRedis

pytestmark = [
    pytest.mark.fault,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc"),
]
CAPTION = '"type": "caption"'


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Program]:
    """A run over a live stream from a real RTSP server, in a process group of its own."""
    config = tmp_path / "config.yaml"
    config.write_text("model:\n  answer_timeout_s: 4\n")
    with (
        RtspServer(CLIPS) as server,
        program(
            *("run", f"live={server.url('bikes.mp4')}", "--config", config),
            *("--rules", DEMO_RULES, "--output", tmp_path / "out", "--json"),
            group=True,
        ) as running,
    ):
        yield running


def test_ctrl_c_to_the_whole_group_drains_and_leaves_nothing(live: Program):
    live.read_until(CAPTION, times=3)
    os.killpg(live.process.pid, signal.SIGINT)  # as a terminal does
    done = live.finish()
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    summary = json_lines(done.stdout)[-1]
    assert summary["type"] == "summary"
    assert summary["interrupted"]
    assert summary["error"] is None
    assert_books_balance(summary)
    assert not live.left_behind()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_the_model_loads_leaves_nothing(live: Program, number: signal.Signals):
    live.child("libtorch")
    live.process.send_signal(number)
    done = live.finish()
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert not live.left_behind()


def test_a_request_to_reload_while_the_model_loads_is_kept(live: Program, tmp_path: Path):
    live.child("libtorch")
    (tmp_path / "config.yaml").write_text("capture:\n  captions_per_second: 2\n")
    live.process.send_signal(signal.SIGHUP)
    live.read_until(CAPTION, times=10)  # some seconds: the files are looked at once in one
    live.process.send_signal(signal.SIGINT)
    done = live.finish()
    assert done.returncode == 130, done.stderr
    assert "reloaded: changed live; model stay as they were" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_hung_captioner_is_replaced_and_its_batch_booked(
    live: Program, number: signal.Signals
):
    live.read_until(CAPTION, times=2)
    os.kill(live.child("libtorch"), number)
    live.read_until(CAPTION, times=3)  # one may have been on its way
    live.process.send_signal(signal.SIGINT)
    done = live.finish()
    assert done.returncode == 130, done.stderr
    assert "starting it again" in done.stderr
    summary = json_lines(done.stdout)[-1]
    assert_books_balance(summary)
    reason = "captioner_died" if number == signal.SIGKILL else "captioner_hung"
    assert summary["total"]["frames"]["failed"][reason] >= 1
    assert not live.left_behind()


def test_when_the_main_process_is_killed_all_else_goes_too(live: Program):
    live.read_until(CAPTION)
    assert live.child("valkey-server")
    live.process.kill()
    done = live.finish()
    assert "Traceback" not in done.stderr
    assert not live.left_behind()


def test_a_reader_that_goes_away_ends_the_run(live: Program):
    live.read_until(CAPTION)
    live.process.stdout.close()
    assert live.process.wait(60) == 1
    assert "Traceback" not in live.process.stderr.read()
    assert not live.left_behind()


def test_a_reader_that_reads_no_more_holds_up_neither_files_nor_the_end(tmp_path: Path):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"." * 1024)
    os.set_blocking(writer, True)
    out = tmp_path / "out"
    command = ("run", f"car={CLIPS / 'carphone_pristine.mp4'}", "--output", out, "--json")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run_stream.py"), *map(str, command)],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
        os.close(writer)
        os.close(reader)
    assert process.returncode == 1, said
    assert "outputs: nobody reads the output; not shown: captions 4" in said
    assert "Fatal" not in said
    assert "Traceback" not in said
    summary = json.loads((out / "summary.json").read_text())
    assert_books_balance(summary)
    assert len(json_lines((out / "car.jsonl").read_text())) == summary["total"]["windows"]["due"]
    assert not (out / "car.part").exists()


@pytest.mark.parametrize("fault", [signal.SIGSTOP, signal.SIGKILL])
def test_a_redis_that_hangs_or_dies_holds_up_no_caption_and_gets_every_alert(
    fault: signal.Signals, tmp_path: Path
):
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: [{name: any, regex: [.], update_every_s: 0.1}]\n")
    with (
        RtspServer(CLIPS) as camera,
        EmbeddedRedis() as server,
        program(
            *("run", f"live={camera.url('bikes.mp4')}", "--rules", rules, "--json"),
            *("--output", tmp_path / "out", "--redis-url", server.url),
        ) as running,
    ):
        running.read_until("watchword.alert.started")
        time.sleep(1.1)  # append-only everysec: what was answered in the last second may go
        os.kill(server.pid, fault)
        running.read_until("watchword.alert.updated", times=3)
        if fault == signal.SIGSTOP:
            os.kill(server.pid, signal.SIGCONT)
        else:
            until(server.revive)
        running.process.send_signal(signal.SIGINT)
        assert running.finish().returncode == 130
        told = json_lines((tmp_path / "out" / "live.events.jsonl").read_text())
        assert streamed_ids(server.url) == [event["id"] for event in told]
        assert len(told) >= 3
