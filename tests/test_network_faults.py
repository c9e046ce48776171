"""A link that goes down, in a network namespace of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from media import write_video

SCRIPT = Path(__file__).parent / "network_faults_inside.py"


def _namespaces_work() -> bool:
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare"))):
        return False
    probe = ["unshare", "--net", "sh", "-c", "ip link set lo up"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.fault,
    pytest.mark.skipif(
        not _namespaces_work(), reason="needs root, ip and unshare for a network of its own"
    ),
]


def test_a_link_that_goes_down_is_told_and_the_camera_comes_back(tmp_path: Path):
    write_video(tmp_path / "cam.mp4", [k / 10 for k in range(100)], size=(320, 240), gop=20)
    done = subprocess.run(
        ["unshare", "--net", sys.executable, str(SCRIPT), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["offline", "online", "balanced"]
