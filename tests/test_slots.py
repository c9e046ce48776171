from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from media import write_video

from pipeline.slots import FrameSlots, SharedMemoryFull, SlotLayout, fitting_slots

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


def test_a_recording_takes_what_fits_and_a_camera_that_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("pipeline.slots.shared_room_bytes", lambda: 64_000_000)
    layout = SlotLayout("", 48, 260, 640)
    assert fitting_slots(layout, fewest=4) == 64_000_000 // layout.slot_bytes < 48
    with pytest.raises(SharedMemoryFull, match="--shm-size"):
        fitting_slots(layout, fewest=4, promised_bytes=60_000_000)
    monkeypatch.setattr("pipeline.slots.shared_room_bytes", lambda: None)
    assert fitting_slots(layout, fewest=4) == 48


def _own_mounts_work() -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


@pytest.mark.fault
@pytest.mark.skipif(
    not _own_mounts_work(), reason="needs root and unshare for a /dev/shm of its own"
)
@pytest.mark.parametrize(
    ("size", "filled", "said"),
    [("4m", "", "shared memory is too small"), ("24m", "filled", "no room in shared memory")],
)
def test_a_small_shared_memory_is_told_and_kills_nobody(
    tmp_path: Path, size: str, filled: str, said: str
):
    write_video(tmp_path / "cam.mp4", [k / 25 for k in range(50)], size=(640, 480))
    script = Path(__file__).with_name("shared_memory_inside.py")
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"),
            *(sys.executable, str(script), str(tmp_path / "cam.mp4"), filled),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert "--shm-size" in done.stdout
