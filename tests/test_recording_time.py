"""When recordings began: names of recorders, start times, time zones."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from capture_run import Run
from hypothesis import given
from hypothesis import strategies as st
from media import write_video

from pipeline.camera_specs import camera_specs
from pipeline.config import CaptureConfig, Config
from pipeline.recording_time import named_time, recorded_at
from pipeline.sources import SourceError, parse_source

SIX = datetime(2026, 11, 23, 6, tzinfo=timezone.utc)
BERLIN = ZoneInfo("Europe/Berlin")
PATTERNS = [
    "cam1_%Y-%m-%d_%H-%M-%S",
    "%Y%m%d%H%M%S",
    "Driveway_01_%Y%m%d%H%M%S",
    "%Y_%m%d_%H%M%S_0001F",
    "%Y%m%d_%H%M%S_NF",
    "NVR.ch2.%Y.%m.%d.%H.%M.%S",
    "%Y-%m-%dT%H:%M:%S",
]


@pytest.fixture
def machine_in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2099, 12, 31)),  # noqa: DTZ001 - a recorder's clock
    st.sampled_from(PATTERNS),
    st.integers(-11, 12),
)
def test_a_time_is_found_in_every_common_kind_of_name(at: datetime, pattern: str, hours: int):
    zone = timezone(timedelta(hours=hours))
    at = at.replace(microsecond=0, tzinfo=zone)
    assert named_time(parse_source(f"{at.strftime(pattern)}.mp4"), zone) == at


@pytest.mark.parametrize(
    "name", ["holiday", "20261323060000", "2026-11-23", "120261123060000", "2026-11-23_25-00-00"]
)
def test_what_is_no_time_gives_none(name: str):
    assert named_time(parse_source(f"{name}.mp4"), timezone.utc) is None


def test_digits_that_are_no_date_do_not_hide_one_that_is():
    source = parse_source("20261399999999_2026-11-23_06-00-00.mp4")
    assert named_time(source, timezone.utc) == SIX


def test_a_z_says_utc_whatever_the_zone():
    assert named_time(parse_source("cam_2026-11-23T06-00-00Z.mp4"), BERLIN) == SIX


def test_without_a_zone_the_machines_counts(machine_in_tokyo: None):
    source = parse_source("cam_2026-11-23_15-00-00.mp4")
    assert named_time(source) == SIX


def test_a_live_source_has_no_time_in_its_name():
    assert named_time(parse_source("rtsp://h/2026-11-23_06-00-00")) is None


def started(config: Config, camera: str, name: str, start_time: str | None) -> datetime | None:
    (spec,) = camera_specs(config, [(camera, parse_source(name))], start_time)
    return spec.start_time


def test_own_start_time_then_name_then_common_start_time():
    config = Config.model_validate(
        {
            "cameras": {
                "own": {"source": "x.mp4", "start_time": "2020-01-01T00:00:00"},
                "east": {"source": "y.mp4", "capture": {"time_zone": "Asia/Tokyo"}},
            },
            "capture": {"time_zone": "Europe/Berlin"},
        }
    )
    named, common = "c_2026-11-23_07-00-00.mp4", "2021-01-01T00:00:00"
    assert started(config, "own", named, common) == datetime(2020, 1, 1, tzinfo=BERLIN)
    assert started(config, "other", named, common) == SIX
    assert started(config, "east", named, common) == SIX - timedelta(hours=8)
    assert started(config, "other", "c.mp4", common) == datetime(2021, 1, 1, tzinfo=BERLIN)
    assert started(config, "other", "c.mp4", common + "Z") == datetime(
        2021, 1, 1, tzinfo=timezone.utc
    )
    assert started(config, "other", "c.mp4", None) is None
    assert started(config, "other", "rtsp://h/x", common) is None


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (("PART_000.mp4",), False),
        (("PART_000.mp4", "PART_001.mp4"), True),
        (("PART_000.mp4", "gate_2026-11-23_06-00-00.mp4", "rtsp://h/x"), False),
    ],
)
def test_a_start_time_for_several_recordings_is_said_to_be_that_of_each(
    files: tuple[str, ...], told: bool, caplog: pytest.LogCaptureFixture
):
    sources = [(str(n), parse_source(file)) for n, file in enumerate(files)]
    camera_specs(Config(), sources, "2021-01-01T00:00:00Z")
    assert ("begun together" in caplog.text) == told


def test_a_start_time_or_zone_that_is_none_is_told():
    for file in ("gate_2026-11-23_06-00-00.mp4", "c.mp4"):
        with pytest.raises(SourceError, match=r"^--start-time: 'noon' is not a time"):
            started(Config(), "gate", file, "noon")
    own = Config(cameras={"gate": {"source": "c.mp4", "start_time": "noon"}})
    with pytest.raises(SourceError, match=r"^gate: start time 'noon' is not a time"):
        started(own, "gate", "c.mp4", None)
    with pytest.raises(ValueError, match="names look like Europe/Paris"):
        CaptureConfig(time_zone="Berlin Time")


def test_a_file_without_a_time_ends_when_it_was_last_written(tmp_path: Path):
    file = tmp_path / "c.mp4"
    file.touch()
    os.utime(file, (SIX.timestamp(), SIX.timestamp()))
    assert recorded_at(parse_source(str(file)), 10.0) == SIX - timedelta(seconds=10)


def test_frames_carry_the_clock_of_the_recorder(tmp_path: Path):
    file = tmp_path / "gate_2026-11-23_07-00-00.mp4"
    write_video(file, [k / 10 for k in range(20)])
    config = Config(capture=CaptureConfig(time_zone="Europe/Berlin", analysis_fps=10))
    with Run(*camera_specs(config, [("gate", parse_source(str(file)))])) as run:
        stamps = [ref.stamp for ref in run.take_all()]
    assert len(stamps) > 10 and stamps[0].captured_at == SIX
    assert all(
        stamp.captured_at - SIX == timedelta(seconds=stamp.position_s or 0) for stamp in stamps
    )
