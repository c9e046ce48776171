"""The whole program killed in the middle of its work: no alert lost, none doubled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.timeout(1800)
def test_program_killed_three_times_publishes_what_an_unbroken_run_does() -> None:
    command = [sys.executable, "-m", "benchmarks.program_kills", "--kills", "3", "--seed", "1"]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    count = json.loads(done.stdout)
    assert count["mid_run"] >= 1  # else the kills fell beside the work and show nothing
    assert count["found"] == count["expected"] > 0
    assert count["processes_left"] == count["segments_left"] == 0
