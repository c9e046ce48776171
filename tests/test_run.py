"""The whole program on real parts: real clips, the shipped model, a real Redis, real RTSP."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import subprocess
import threading
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import yaml
from cloudevents.v1.http import from_json
from jsonschema import Draft202012Validator
from numpy.typing import NDArray
from program import CLIPS, DEMO_RULES, ROOT, assert_books_balance, json_lines, watchword

from pipeline import Config, run
from pipeline.alerts import EmbeddedRedis, Event, subscribe
from pipeline.config import CaptureConfig
from pipeline.frame_clock import Ticks
from pipeline.messages import Alert, Caption

BEFORE_S, AFTER_S = 1.0, 1.5


class FilesRun(NamedTuple):
    """What a run over the demo's clips printed, wrote and published."""

    done: subprocess.CompletedProcess[str]
    output: Path
    events: list[Event]
    clips: Path


@pytest.fixture(scope="module")
def files_run(tmp_path_factory: pytest.TempPathFactory) -> FilesRun:
    """Two real clips as two cameras, once for all tests that only look at the outcome."""
    output, clips = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("clips")
    config = tmp_path_factory.mktemp("config") / "config.yaml"
    around = {"before_s": BEFORE_S, "after_s": AFTER_S}
    config.write_text(yaml.safe_dump({"clips": {"directory": str(clips), **around}}))
    with EmbeddedRedis() as server:
        done = watchword(
            "run",
            f"street={CLIPS / 'bikes.mp4'}",
            f"car={CLIPS / 'carphone_pristine.mp4'}",
            *("--rules", DEMO_RULES, "--output", output, "--redis-url", server.url),
            *("--format", "vtt,srt,jsonl", "--json", "--config", config),
        )
        reads = iter(range(2))
        events = list(
            subscribe(server.url, since="1h", keep_going=lambda: next(reads, None) is not None)
        )
    return FilesRun(done, output, events, clips)


def test_files_become_captions_alerts_and_exact_books(files_run: FilesRun):
    done, output = files_run.done, files_run.output
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
    for name in ("street", "car"):
        assert (output / f"{name}.vtt").read_text().startswith("WEBVTT")
        assert (output / f"{name}.srt").stat().st_size > 0
        kept = json_lines((output / f"{name}.jsonl").read_text())
        assert kept == [line for line in captions if line["camera"] == name]


def test_alerts_are_read_back_from_redis_and_are_those_printed(files_run: FilesRun):
    done, events = files_run.done, files_run.events
    printed = [line for line in json_lines(done.stdout) if line["type"].startswith("watchword.")]
    assert printed, "the demo's rules watch for people and vehicles, which the clips are full of"
    assert [(event.id, event.data) for event in events] == [
        (line["id"], line["data"]) for line in printed
    ]
    schema = Draft202012Validator(json.loads((ROOT / "docs" / "events.schema.json").read_text()))
    for line in printed:
        schema.validate(line)
        read = from_json(json.dumps(line))  # CloudEvents' own SDK
        assert (read["id"], read.data) == (line["id"], line["data"])
    assert {event.data["alert_id"] for event in events if event.type.endswith("started")} == {
        event.data["alert_id"] for event in events if event.type.endswith("ended")
    }
    assert [event.data["seq"] for event in events] == list(range(1, len(events) + 1))


def test_each_alert_has_a_clip_that_plays_the_seconds_around_it(files_run: FilesRun):
    clips = {event.data["clip"]: event.data for event in files_run.events if _starts(event)}
    assert clips
    assert {str(path) for path in files_run.clips.rglob("*.*")} == set(clips)
    for file, data in clips.items():
        recording = CLIPS / {"street": "bikes.mp4", "car": "carphone_pristine.mp4"}[data["camera"]]
        looked_at = _looked_at(recording)
        from_s, until_s = data["media_time_s"] - BEFORE_S, data["media_time_s"] + AFTER_S
        expected = [time_s for time_s in looked_at if from_s <= time_s <= until_s]
        shown = _frames(Path(file))
        if len(shown) > len(expected):  # a frame beyond the end told that all have come
            expected.append(min(time_s for time_s in looked_at if time_s > until_s))
        assert list(shown) == pytest.approx([t - expected[0] for t in expected], abs=0.01)
        for time_s, picture in zip(expected, shown.values(), strict=True):
            same = cv2.resize(looked_at[time_s], (picture.shape[1], picture.shape[0]))
            assert np.abs(same.astype(int) - picture).mean() < 8


def _looked_at(recording: Path) -> dict[float, NDArray[np.uint8]]:
    """Those frames of a recording that a run looks at, by its default settings."""
    sampler = Ticks(CaptureConfig().analysis_fps)
    return {time_s: image for time_s, image in _frames(recording).items() if sampler.take(time_s)}


def _starts(event: Event) -> bool:
    return event.type == "watchword.alert.started"


def _frames(video: Path) -> dict[float, NDArray[np.uint8]]:
    """Times in seconds and pictures (H, W, 3) BGR of every frame."""
    capture, frames = cv2.VideoCapture(str(video)), {}
    while capture.grab():
        time_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        frames[time_s] = np.asarray(capture.retrieve()[1], np.uint8)
    return frames


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="needs ffprobe of FFmpeg")
def test_a_clip_is_h264_as_browsers_play_it(files_run: FilesRun):
    for clip in files_run.clips.rglob("*.mp4"):
        command = ["ffprobe", "-v", "error", "-show_streams", "-of", "json", str(clip)]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        assert found.stderr == ""
        (stream,) = json.loads(found.stdout)["streams"]
        assert (stream["codec_name"], stream["pix_fmt"]) == ("h264", "yuv420p")
        assert 0.4 < float(stream["duration"]) < BEFORE_S + AFTER_S + 0.5


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


def test_check_and_rules_test_need_no_model(tmp_path: Path):
    assert watchword("check", DEMO_RULES).returncode == 0
    captions = tmp_path / "captions.jsonl"
    captions.write_text(
        json.dumps({"camera": "c", "media_time_s": 0.0, "text": "two men are fighting"}) + "\n"
    )
    done = watchword("rules", "test", "--captions", captions)
    assert done.returncode == 0, done.stderr
    assert json_lines(done.stdout)[0]["data"]["rule"] == "fight"


def test_the_demo_takes_ones_own_file_whatever_it_is_called(tmp_path: Path):
    video = tmp_path / "it's a [b] & $c=d.mp4"
    shutil.copy(CLIPS / "carphone_pristine.mp4", video)
    done = watchword("demo", "--output", tmp_path / "out", "--", video)
    assert done.returncode == 0, done.stderr
    assert "rules: " in done.stdout
    assert "4 captions in" in done.stdout
    assert "read back from Redis:" in done.stdout or "Redis holds no event" in done.stdout


def test_make_hands_the_path_of_a_video_on_as_it_is():
    given = 'it\'s a [b] & $c `d` "e".mp4'
    lines = 'include Makefile\nshow:\n\t@printf %s "$$DEMO_VIDEO"\n'
    done = subprocess.run(
        ["make", "-s", "-f", "-", "show", f"VIDEO={given}"],
        cwd=ROOT,
        input=lines,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == given


def test_a_run_from_python_gives_everything_and_leaves_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[tuple[str, float, float]] = []
    monkeypatch.setattr("pipeline.api._Callbacks.progress", lambda _, *at: seen.append(at))
    threads = set(threading.enumerate())
    captions: list[Caption] = []
    alerts: list[Alert] = []
    config = Config.model_validate(
        {
            "rules": {"file": str(DEMO_RULES)},
            "output": {"directory": str(tmp_path)},
            "store": {"path": str(tmp_path / "store.sqlite3")},
        }
    )
    clip = f"car={CLIPS / 'carphone_pristine.mp4'}"
    summary = run([clip], config, on_caption=captions.append, on_alert=alerts.append)
    assert summary.error is None
    assert summary.total.captioned == len(captions) == 4
    assert seen[-1] == ("car", seen[-1][2], seen[-1][2]), "a recording read to its end is at 100 %"
    assert summary.total.frames_in_flight == summary.total.windows_in_flight == 0
    assert sum(summary.alerts.values()) == len({alert.id for alert in alerts})
    assert set(threading.enumerate()) <= threads
    assert not multiprocessing.active_children()
    assert not list(Path("/dev/shm").glob(f"ww{os.getpid()}-*"))


def test_a_gap_in_the_files_is_an_error_at_the_end_and_is_filled_by_a_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Full(FileIO):
        """A journal on a disk that has no room for its third line."""

        lines = 0

        def write(self, line: bytes) -> int:
            self.lines += 1
            if self.lines == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(line)

    output = {"directory": str(tmp_path), "formats": ("jsonl",)}
    given = {"output": output, "store": {"path": str(tmp_path / "store.sqlite3")}}
    clip = f"car={CLIPS / 'carphone_pristine.mp4'}"
    captions: list[Caption] = []
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.outputs.journal.FileIO", Full)
        first = run([clip], Config.model_validate(given), on_caption=captions.append)
    assert first.error is not None
    assert first.error.startswith("outputs: the files lack what could not be written: car: ")
    assert "disk_full" in first.error
    assert len(captions) == first.total.captioned == 4
    assert len((tmp_path / "car.jsonl").read_text().splitlines()) == 3
    assert json.loads((tmp_path / "summary.json").read_text())["error"] == first.error
    again = Config.model_validate({**given, "output": {**output, "resume": True}})
    second = run([clip], again, on_caption=captions.append)
    assert second.error is None
    assert len(captions) == 8, "what has a gap is not marked as done"
    assert len((tmp_path / "car.jsonl").read_text().splitlines()) == 4
    third = run([clip], again, on_caption=captions.append)
    assert third.error is None
    assert len(captions) == 8


def test_an_error_in_a_callback_ends_the_run_and_is_told(tmp_path: Path):
    def refuse(caption: Caption) -> None:
        raise RuntimeError(f"no more of {caption.stamp.camera}")

    config = Config.model_validate(
        {
            "output": {"directory": str(tmp_path)},
            "store": {"path": str(tmp_path / "store.sqlite3")},
        }
    )
    summary = run(f"car={CLIPS / 'carphone_pristine.mp4'}", config, on_caption=refuse)
    assert summary.error == "outputs: no more of car"
    assert summary.total.captioned >= 1
    assert summary.total.frames_in_flight == summary.total.windows_in_flight == 0
    assert (tmp_path / "car.vtt").exists()
    assert (tmp_path / "car.part").exists(), "what was not read to its end can be gone on with"
