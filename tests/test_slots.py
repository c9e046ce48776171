from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.slots import FrameSlots

MAKE_AND_SLEEP = (
    "import sys, time; sys.path.insert(0, sys.argv[1]);"
    "from pipeline.slots import FrameSlots;"
    "print(FrameSlots.create('cam', 2, 8, 8).layout.segment, flush=True); time.sleep(60)"
)


def test_slots_do_not_overlap():
    slots = FrameSlots.create("front door", 3, 8, 16)
    try:
        for number in range(3):
            slots.square(number)[:] = number + 1
            slots.preview(number, 16, 16)[:] = number + 11
        for number in range(3):
            assert np.all(slots.square(number) == number + 1)
            assert np.all(slots.preview(number, 16, 16) == number + 11)
        with pytest.raises(IndexError):
            slots.square(3)
        with pytest.raises(ValueError, match="17x4"):
            slots.preview(0, 17, 4)
    finally:
        slots.close()
        slots.unlink()
    assert not Path("/dev/shm", slots.layout.segment).exists()


@pytest.mark.fault
@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm here")
def test_no_segment_outlives_a_killed_owner():
    root = str(Path(__file__).parent.parent)
    command = [sys.executable, "-c", MAKE_AND_SLEEP, root]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as owner:
        assert owner.stdout is not None
        segment = Path("/dev/shm", owner.stdout.readline().strip())
        assert segment.exists()
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while segment.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not segment.exists()
