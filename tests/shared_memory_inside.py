"""Run by ``test_slots.py`` with a small ``/dev/shm`` of its own: ``VIDEO [filled]``."""

from __future__ import annotations

import sys
from pathlib import Path

from capture_run import Run, file_spec


def fill_shared_memory() -> None:
    """Do what another program may do at any time: leave nothing."""
    with Path("/dev/shm/another-program").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(65536)):
                pass
        except OSError:
            return


def main(video: Path, filled: bool) -> None:
    run = Run(file_spec("cam", video, preview_pixels=1280))
    with run:
        if filled:
            run.take_until(lambda: run.capture.holds("cam"), 60)
            fill_shared_memory()
        run.take_all()
        print(run.capture.errors().get("cam"), run.capture.accounts()["cam"].balanced)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] == ["filled"])
