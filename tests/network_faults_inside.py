"""Run by ``test_network_faults.py`` inside a network namespace: ``FOLDER``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from capture_run import Run
from rtsp_server import RtspServer

from pipeline.capture import CameraSpec
from pipeline.config import CaptureConfig
from pipeline.sources import parse_source


def shell(command: str) -> str:
    return subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout


def spec_of(server: RtspServer, **settings: float) -> CameraSpec:
    config = CaptureConfig(analysis_fps=100, preview_pixels=320, **settings)
    return CameraSpec("cam", parse_source(server.url("cam.mp4")), config)


def link(folder: Path) -> None:
    with RtspServer(folder) as server:
        settings = {"stale_after_s": 3.0, "open_timeout_s": 3.0, "read_timeout_s": 3.0}
        with Run(spec_of(server, **settings)) as run:
            run.take_until(lambda: run.capture.status()["cam"].up, 60)
            shell("ip link set lo down")
            run.take_until(lambda: bool(run.events), 30)
            shell("ip link set lo up")
            run.take_until(lambda: run.capture.status()["cam"].up, 60)
            balanced = run.capture.accounts()["cam"].balanced
    print(*(event.state.value for event in run.events), "balanced" if balanced else "")


if __name__ == "__main__":
    shell("ip link set lo up")
    link(Path(sys.argv[1]))
