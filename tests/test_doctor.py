"""``doctor`` on this machine, and on one that is not well."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path

import pytest
from typer.testing import CliRunner

import run_stream


def findings(*arguments: str) -> tuple[int, dict[str, dict[str, object]]]:
    done = CliRunner().invoke(run_stream.app, ["doctor", "--json", *arguments])
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return done.exit_code, {line["what"]: line for line in lines}


def test_doctor_tells_what_works_and_what_does_not(tmp_path: Path) -> None:
    config = tmp_path / "site.yaml"
    config.write_text(
        "redis: {url: 'redis://:hunter2@127.0.0.1:1/0', timeout_s: 0.2}\nmodel: {name: none}\n"
        f"store: {{path: '{tmp_path}/new/store.sqlite3'}}\n"
    )
    code, found = findings("--config", str(config))
    assert code == 1
    assert [what for what, finding in found.items() if not finding["good"]] == ["redis", "model"]
    assert "hunter2" not in str(found) and "no model" in str(found["model"]["says"])
    assert not (tmp_path / "new").exists(), "it left something behind"


def test_doctor_captions_with_the_shipped_model(tmp_path: Path) -> None:
    config = tmp_path / "site.yaml"
    config.write_text("model: {device: cpu, runtime: eager}\n")
    code, found = findings("--config", str(config))
    assert (code, {finding["good"] for finding in found.values()}) == (0, {True})
    assert "ms a captioned frame" in str(found["model"]["says"])


def test_doctor_asks_the_redis_that_it_is_given(tmp_path: Path) -> None:
    config = tmp_path / "site.yaml"
    config.write_text("redis: {timeout_s: 0.2}\nmodel: {name: none}\n")
    _, found = findings("--config", str(config), "--redis-url", "redis://:hunter2@127.0.0.1:1/0")
    assert not found["redis"]["good"] and "hunter2" not in str(found["redis"])


def test_doctor_says_what_a_machine_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 9 * 10**8, 10**8))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("pipeline.slots.shared_room_bytes", lambda: 10**6)
    config = tmp_path / "site.yaml"
    config.write_text("capture: {key_frames_only: true}\nmodel: {name: none}\n")
    code, found = findings("--config", str(config))
    assert code == 1
    assert "0.10 GB free" in str(found["store"]["says"])
    assert "watchword[keyframes]" in str(found["decoder"]["says"])
    assert "--shm-size" in str(found["memory"]["says"])
