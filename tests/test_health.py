"""Metrics and health: the endpoint by itself, and of a whole run on a real camera."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from capture_run import CLIPS
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families
from rtsp_server import RtspServer, free_port
from waiting import until

import run_stream
from pipeline.health import HealthError, HealthServer

ROOT = Path(__file__).parent.parent
NAMES = {
    "frames_grabbed",
    "frames_unsampled",
    "frames_skipped",
    "frames_dropped",
    "frames_failed",
    "frames_encoded",
    "captions",
    "alerts",
    "alerts_suppressed",
    "queue_depth",
    "stage_duration_seconds",
    "grab_to_batch_seconds",
    "batch_size",
    "grab_to_caption_seconds",
    "grab_to_alert_seconds",
    "camera_blind",
    "camera_up",
    "camera_reconnects",
    "timestamp_faults",
    "outbox_depth",
    "publish_failures",
    "sink_waiting",
    "sink_failures",
    "output_lost",
    "screen_dropped",
}


def get(port: int, page: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_pages_say_what_fails_and_metrics_are_prometheus_text():
    registry, problem = CollectorRegistry(), None
    Counter("things", "Things.", registry=registry).inc(3)
    server = HealthServer(
        "127.0.0.1", 0, registry, {"stages": lambda: None}, {"redis": lambda: problem}
    )
    try:
        assert get(server.port, "healthz")[0] == get(server.port, "readyz")[0] == 200
        problem = "connection refused"
        status, body = get(server.port, "readyz")
        assert (status, json.loads(body)["checks"]) == (503, {"redis": "connection refused"})
        assert get(server.port, "healthz")[0] == 200
        assert "things_total 3.0" in get(server.port, "metrics")[1]
        assert get(server.port, "other")[0] == 404
        with pytest.raises(HealthError, match=r"choose another metrics\.port"):
            HealthServer("127.0.0.1", server.port, registry, {}, {})
    finally:
        server.close()


def test_a_port_that_is_taken_is_one_line_and_wrong_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit) as left:
            run_stream.main(
                ["run", str(CLIPS / "bikes.mp4"), "--metrics-port", port, "--output", str(tmp_path)]
            )
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"127.0.0.1:{port}" in line
    assert "choose another metrics.port" in line


def samples(port: int) -> dict[tuple[str, str], float]:
    """Values by name and camera (or other first label)."""
    values: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(get(port, "metrics")[1]):
        for sample in family.samples:
            key = (sample.name.removeprefix("watchword_"), next(iter(sample.labels.values()), ""))
            values[key] = values.get(key, 0.0) + sample.value
    return values


@pytest.mark.fault
def test_a_run_is_ready_while_its_camera_is_up_and_its_books_are_served(tmp_path: Path):
    port, config = free_port(), tmp_path / "watchword.yaml"
    with RtspServer(CLIPS) as server:
        config.write_text(
            yaml.safe_dump(
                {
                    "cameras": {"cam": {"source": server.url("bikes.mp4")}},
                    # A busy machine must not look like a hung camera; a killed server still does.
                    "capture": {
                        "stale_after_s": 20.0,
                        "open_timeout_s": 30.0,
                        "max_frame_age_s": 60.0,
                    },
                    "metrics": {"port": 1},  # the command line has another
                    "webhooks": {"desk": {"url": f"http://127.0.0.1:{free_port()}/"}},
                    "output": {"directory": str(tmp_path)},
                    "store": {"path": str(tmp_path / "watchword.sqlite3")},
                }
            )
        )
        process = subprocess.Popen(
            [
                *(sys.executable, str(ROOT / "run_stream.py"), "run", "--config", str(config)),
                *("--metrics-port", str(port), "--json"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            until(lambda: _answers(port), 30)
            assert get(port, "readyz")[0] == 503  # the model is still loading
            assert get(port, "healthz")[0] == 200
            until(lambda: get(port, "readyz")[0] == 200, 150)
            until(lambda: samples(port).get(("captions_total", "cam"), 0) >= 2, 60)
            found = get(port, "metrics")[1]
            families = {family.name for family in text_string_to_metric_families(found)}
            assert {f"watchword_{name}" for name in NAMES} <= families
            values = samples(port)
            assert values["camera_up", "cam"] == 1
            assert values["grab_to_caption_seconds_count", ""] >= 2
            assert values["stage_duration_seconds_count", "captioner"] >= 2
            assert values["frames_grabbed_total", "cam"] > values["frames_encoded_total", "cam"] > 0
            server.kill()
            until(lambda: get(port, "readyz")[0] == 503, 60)
            assert "none of 1 is up" in get(port, "readyz")[1]
            # That the camera is away waits for the webhook, which is away itself, and for no other.
            until(lambda: samples(port)["sink_failures_total", "webhook:desk"] >= 1)
            until(lambda: samples(port)["sink_waiting", "redis"] == 0)
            assert samples(port)["sink_waiting", "webhook:desk"] >= 1
            assert get(port, "healthz")[0] == 200
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"metrics on http://127.0.0.1:{port}/metrics" in errors


def _answers(port: int) -> bool:
    try:
        return get(port, "healthz")[0] == 200
    except OSError:
        time.sleep(0.05)
        return False
