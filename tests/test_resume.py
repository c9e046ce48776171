"""Runs over recordings, killed and gone on with: the same outcome as of one unbroken run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from media import write_video
from tiny_captioner import tiny_captioner

from benchmarks.resume_kills import Command, run
from models.checkpoint import load_checkpoint, save_checkpoint
from models.grounding import Thresholds
from pipeline.captioner_messages import Ready
from pipeline.config import Config
from pipeline.outputs import CameraSource, CameraSummary, OutputSet
from pipeline.outputs.camera import camera_files
from pipeline.resume import DoneMark, DoneMarks
from pipeline.run_setup import read_setup
from pipeline.store import Store

TESTS = Path(__file__).parent


def recordings(folder: Path, count: int = 4, seconds: int = 12) -> dict[str, Path]:
    """Clips whose brightness goes its own way in each."""
    made = {}
    for number in range(count):
        rng = np.random.default_rng(number)
        levels = np.clip(rng.normal(0, 25, seconds * 5).cumsum() + 120, 0, 255).astype(np.uint8)
        pictures = [np.full((48, 64, 3), level, np.uint8) for level in levels]
        times = [index / 5 for index in range(len(pictures))]
        made[f"c{number}"] = write_video(
            folder / f"clip{number}.mp4", times, (64, 48), pictures=pictures
        )
    return made


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The whole program over four recordings, with captions from a small fake."""
    search = [str(TESTS), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, search)))
    config = tmp_path / "config.yaml"
    config.write_text("capture: {captions_per_second: 2.5}\n")
    return Command(recordings(tmp_path), config, factory="captioner_fakes:slow")


@pytest.mark.fault
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1])
def test_killed_at_random_and_resumed_everything_is_as_of_an_unbroken_run(
    command: Command, tmp_path: Path, seed: int
):
    count = run(command, tmp_path, kills=4, seed=seed)
    assert count.differing == []
    assert (count.lost, count.duplicates) == (0, 0)
    assert count.same == count.runs >= 1
    assert count.files == 4 * 5 + 4 + len(list((tmp_path / "unbroken").glob("*.png")))
    assert count.events > 0


@pytest.mark.fault
def test_a_resumed_run_leaves_out_what_is_done_and_says_so(command: Command, tmp_path: Path):
    output = tmp_path / "out"
    first = Command({"c0": command.sources["c0"]}, command.config, command.factory)
    assert printed(first, output)[0] == 0
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("c0.*")}
    code, text = printed(command, output, "--resume")
    assert code == 0, text
    assert "1 of 4 were finished by a run before" in text
    after = {path.name: path.stat().st_mtime_ns for path in output.glob("c0.*")}
    assert before == after
    summary = json.loads((output / "summary.json").read_text())
    assert [camera["camera"] for camera in summary["cameras"]] == ["c0", "c1", "c2", "c3"]
    assert all(camera["windows"]["captioned"] for camera in summary["cameras"])


@pytest.mark.fault
def test_what_has_changed_is_watched_again(command: Command, tmp_path: Path):
    output = tmp_path / "out"
    assert printed(command, output)[0] == 0
    assert "4 of 4 were finished" in printed(command, output, "--resume")[1]
    (output / "c1.vtt").unlink()
    os.utime(command.sources["c2"])
    code, text = printed(command, output, "--resume")
    assert (code, "2 of 4 were finished" in text) == (0, True)
    assert (output / "c1.vtt").exists()
    assert "were finished" not in printed(command, output)[1], "without --resume all is done anew"


def printed(command: Command, output: Path, *options: str) -> tuple[int, str]:
    """Exit code and all that a run without the report says."""
    named = [f"{name}={path}" for name, path in command.sources.items()]
    program = (
        f"import pipeline.assembly as a, run_stream; a.CAPTIONER_FACTORY = {command.factory!r};"
        f"run_stream.main(['run', *{named!r}, '--config', {str(command.config)!r}, '--output',"
        f"{str(output)!r}, '--start-time', '2026-01-02T03:00:00Z', *{options!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


BOOKS = CameraSummary("c", 10, 5, 1, 3, {"aborted": 1}, {}, 3, 2, {}, {"no_words": 1}, 1.5)


@pytest.mark.parametrize("threshold", [0.25, 0.5])
def test_another_threshold_of_the_model_is_another_model(tmp_path: Path, threshold: float):
    made = tiny_captioner(
        ("<pad>", "<begin>", "<end>", "<unknown>"), 64, seed=1, concepts=("fire",)
    )
    source = tmp_path / "gate.mp4"
    source.write_bytes(b"\0film")
    for file in camera_files(tmp_path, "gate", ["jsonl"]):
        file.touch()
    output = {"directory": str(tmp_path), "resume": True, "formats": ["jsonl"]}
    setup = read_setup(Config(output=output), None, [str(source)], None)

    def marks(store: Store, deny: float) -> DoneMarks:
        thresholds = {"fire": Thresholds(deny, 1.0)}
        made.concepts = replace(made.concepts, thresholds=thresholds)
        save_checkpoint(tmp_path / "model", made)
        loaded = load_checkpoint(tmp_path / "model", "m", torch.device("cpu"))
        return DoneMarks(setup, Ready(64, loaded.identity, "cpu", "eager"), store)

    with closing(Store(tmp_path / "store")) as store:
        marks(store, 0.25).mark("gate", BOOKS, {})
        assert ("gate" in marks(store, threshold).done) is (threshold == 0.25)


def test_a_done_mark_survives_the_store():
    mark = DoneMark("f", BOOKS, {"fight": 2})
    assert DoneMark.from_json(json.loads(json.dumps(mark.to_json()))) == mark


def test_a_recording_is_finished_while_others_go_on(tmp_path: Path):
    from test_outputs import caption  # noqa: PLC0415 - one maker of captions for all tests

    outputs = OutputSet(tmp_path, [CameraSource("lobby"), CameraSource("gate")], ("vtt", "jsonl"))
    outputs.caption(caption(1.0, "a dog"))
    outputs.caption(caption(1.0, "a cat", camera="gate"))
    outputs.finish("lobby")
    outputs.drop_journal("lobby")
    outputs.caption(caption(2.0, "a late dog"))
    assert "a dog" in (tmp_path / "lobby.vtt").read_text()
    assert not (tmp_path / "lobby.part").exists()
    assert not (tmp_path / "gate.vtt").exists()
    outputs.close()
    assert "a late dog" not in (tmp_path / "lobby.jsonl").read_text()
    assert "a cat" in (tmp_path / "gate.vtt").read_text()
