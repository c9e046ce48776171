"""Hot reload: by difference, the others untouched; a bad file changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from capture_run import CLIPS
from hypothesis import given
from hypothesis import strategies as st
from rtsp_server import RtspServer, free_port
from test_health import get, samples
from waiting import until

from pipeline.camera_feed import CameraSpec
from pipeline.commands.run import merged as merge
from pipeline.config import CaptureConfig, Config
from pipeline.reload import Differences, Reloader, differences
from pipeline.rules import load_rules
from pipeline.run_setup import SHIPPED_RULES, Setup, read_setup
from pipeline.sources import SourceError, parse_source

ROOT = Path(__file__).parent.parent
RULES = load_rules(SHIPPED_RULES)
cameras = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 3), max_size=5)


def setup(ports: dict[str, int], **sections: Any) -> Setup:
    specs = tuple(
        CameraSpec(name, parse_source(f"rtsp://h:{port}/x")) for name, port in ports.items()
    )
    return Setup(Config(**sections), specs, RULES)


@given(cameras, cameras)
def test_differences_turn_the_old_cameras_into_the_new(old: dict[str, int], new: dict[str, int]):
    before, after = setup(old), setup(new)
    found = differences(before, after)
    result = {spec.name: spec for spec in before.specs}
    for name in found.removed:
        del result[name]
    result |= {spec.name: spec for spec in (*found.added, *found.changed)}
    assert result == {spec.name: spec for spec in after.specs}
    untouched = {name for name in old if new.get(name) == old[name]}
    assert not untouched & {spec.name for spec in (*found.added, *found.changed)}
    assert not found.rules
    assert not found.needs_restart


def test_new_credentials_masks_groups_and_fixed_sections_are_differences():
    old = setup({"a": 1})
    secret = replace(old.specs[0], source=parse_source("rtsp://u:hunter2@h:1/x"))
    other = replace(old.specs[0], source=parse_source("rtsp://u:hunter3@h:1/x"))
    assert differences(
        Setup(old.config, (secret,), RULES), Setup(old.config, (other,), RULES)
    ).changed == (other,)
    masked = replace(old.specs[0], masks=(((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)),))
    assert differences(old, Setup(old.config, (masked,), RULES)).changed == (masked,)
    grouped = setup({"a": 1}, cameras={"a": {"source": "rtsp://h:1/x", "groups": ["in"]}})
    assert differences(old, grouped).rules
    assert differences(old, setup({"a": 1}, model={"beam_size": 5})).needs_restart == ("model",)


def test_every_section_that_a_reload_leaves_as_it_was_is_said():
    old, ours = setup({"a": 1}), {"cameras", "capture", "rules"}
    other = {
        "webhooks": {"desk": {"url": "https://h/x"}},
        "mqtt": {"host": "h"},
        "snapshots": {"blur_faces": True},
        "clips": {"directory": "d"},
        "metrics": {"port": 1},
        "output": {"directory": "d"},
        "store": {"path": "d"},
        "redis": {"prefix": "p"},
        "model": {"beam_size": 5},
    }
    assert other.keys() == Config.model_fields.keys() - ours, "a new section belongs here too"
    found = differences(old, setup({"a": 1}, **other))
    assert set(found.needs_restart) == other.keys()
    assert "mqtt" in str(found)


def test_a_lexicon_file_is_followed_like_the_rules_that_name_it(tmp_path: Path):
    lexicon, rules = tmp_path / "words.yaml", tmp_path / "rules.yaml"
    lexicon.write_text("covers: {beast: [dog]}")
    rules.write_text("lexicon_files: [words.yaml]\nrules: [{name: x, keywords: [beast]}]")
    config = Config(rules={"file": str(rules)}, cameras={"a": {"source": "0"}})

    def reread() -> Setup:
        return read_setup(config, None, [], None)

    applied: list[Setup] = []
    clock = Clock()
    reloader = Reloader(reread(), reread, lambda new, _: applied.append(new), lambda _: None, clock)
    lexicon.write_text("covers: {beast: [dog, cat]}")
    for _ in range(3):
        clock.now_s += 1.1
        reloader.poll()
    (new,) = applied
    assert new.rules.rules[0].finds("a cat sits there")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_file_is_read_when_it_has_come_to_rest_and_a_bad_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    file, clock = tmp_path / "w.yaml", Clock()
    file.write_text("1")
    applied: list[Differences] = []
    said: list[str] = []

    def reread() -> Setup:
        text = file.read_text()
        if text == "bad":
            raise SourceError("bad: rtsp://admin:hunter2@h/x is not usable")
        return replace(setup(dict.fromkeys("ab"[: int(text)], 1)), files=(file,))

    reloader = Reloader(
        reread(), reread, lambda _, found: applied.append(found), said.append, clock
    )

    def polls(count: int) -> None:
        for _ in range(count):
            clock.now_s += 1.1
            reloader.poll()

    polls(3)
    assert not said
    file.write_text("2 ")
    polls(1)
    assert not applied, "it may still be written"
    polls(1)
    assert [spec.name for spec in applied[-1].added] == ["b"]
    file.write_text("bad")
    polls(4)
    assert len(applied) == 1
    # To the log, which --quiet does not silence.
    assert len(caplog.messages) == 1, "an error is said once, not at every look"
    assert "goes on as it was" in caplog.text
    assert "hunter2" not in caplog.text
    file.write_text("1")
    reloader.request()  # SIGHUP does not wait for the file to rest
    reloader.poll()
    assert applied[-1].removed == ("b",)


def test_the_command_line_does_not_make_a_cameras_unset_values_its_own():
    config = Config(
        cameras={"a": {"source": "0", "capture": {"transport": "udp"}}},
        capture=CaptureConfig(stale_after_s=9.0),
    )
    merged = merge(config, {"capture": {"analysis_fps": 7.0}})
    own = read_setup(merged, None, [], None).specs[0].capture
    assert (own.transport, own.stale_after_s, own.analysis_fps) == ("udp", 9.0, 7.0)


def test_a_change_while_the_model_loads_is_not_missed(tmp_path: Path):
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: [{name: x, keywords: [dog]}]")
    config = Config(rules={"file": str(rules)}, cameras={"a": {"source": "0"}})

    def reread() -> Setup:
        return read_setup(config, None, [], None)

    setup, clock = reread(), Clock()
    rules.write_text("rules: [{name: x, keywords: [dog, cat]}]")
    said: list[str] = []
    reloader = Reloader(setup, reread, lambda *_: None, said.append, clock)
    for _ in range(4):
        clock.now_s += 1.1
        reloader.poll()
    assert said == ["reloaded: rules changed"]


@pytest.mark.fault
def test_cameras_and_rules_change_in_a_running_program(tmp_path: Path):
    port, config, rules = free_port(), tmp_path / "watchword.yaml", tmp_path / "rules.yaml"
    rules.write_text(_rule("first"))

    def write(cameras: dict[str, str], **sections: Any) -> None:
        sections |= {
            "cameras": {name: {"source": url} for name, url in cameras.items()},
            "rules": {"file": str(rules)},
            # A busy machine must not look like a hung camera here.
            "capture": {"stale_after_s": 90.0, "max_frame_age_s": 60.0},
            "metrics": {"port": port},
            "output": {"directory": str(tmp_path)},
            "store": {"path": str(tmp_path / "watchword.sqlite3")},
        }
        config.write_text(yaml.safe_dump(sections))

    def up(*names: str) -> Callable[[], bool]:
        return lambda: (
            {k[1] for k, v in samples(port).items() if k[0] == "camera_up" and v} == {*names}
        )

    with RtspServer(CLIPS) as server:
        bikes, car = server.url("bikes.mp4"), server.url("carphone_pristine.mp4")
        write({"stays": bikes, "goes": bikes})
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "run_stream.py"), "run", "--config", str(config), "--json"],
            stdout=subprocess.DEVNULL,
            stderr=(tmp_path / "stderr").open("w"),
            text=True,
        )
        said = (tmp_path / "stderr").read_text
        try:
            until(lambda: "metrics on" in said() or process.poll() is not None, 60)
            assert process.poll() is None, said()
            until(lambda: get(port, "readyz")[0] == 200, 150)
            until(up("stays", "goes"), 30)
            opened = samples(port)["camera_reconnects_total", "stays"]  # on a busy machine more
            write({"stays": bikes, "comes": car})
            until(up("stays", "comes"), 30)
            assert "reloaded: added comes; removed goes" in said()
            config.write_text("cameras: [")
            until(lambda: "not reloaded" in said(), 20)
            assert "watchword.yaml:1" in said()
            rules.write_text(_rule("second"))
            write({"stays": bikes, "comes": car}, model={"beam_size": 2})
            os.kill(process.pid, signal.SIGHUP)
            until(lambda: "rules changed; model stay as they were until a restart" in said(), 20)
            until(lambda: samples(port).get(("alerts_total", "second"), 0) >= 1, 60)
            assert samples(port)["camera_reconnects_total", "stays"] == opened
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(60)
    assert code == 130, said()
    assert (tmp_path / "comes.jsonl").stat().st_size > 0


def _rule(name: str) -> str:
    return yaml.safe_dump(
        {
            "rules": [
                {
                    "name": name,
                    "severity": "info",
                    "regex": ["[a-z]"],
                    "min_probability": 0.0,
                    "cooldown_s": 0.0,
                }
            ]
        }
    )
