"""A clip that costs little to stream: many servers fit on one core beside what is measured."""

from __future__ import annotations

from pathlib import Path

import cv2

from tests.capture_run import CLIPS
from tests.media import write_video

__all__ = ["LIGHT_FPS", "light_clip"]

LIGHT_FPS = 5


def light_clip(folder: Path, name: str = "light.mp4") -> str:
    """Write every fifth frame of a real street clip, small; return the file's name."""
    capture, pictures = cv2.VideoCapture(str(CLIPS / "bikes.mp4")), []
    while len(pictures) < 50:
        _, image = capture.read()
        pictures.append(cv2.cvtColor(cv2.resize(image, (320, 144)), cv2.COLOR_BGR2RGB))
        for _ in range(4):
            capture.grab()
    times_s = [k / LIGHT_FPS for k in range(len(pictures))]
    write_video(folder / name, times_s, size=(320, 144), gop=LIGHT_FPS, pictures=pictures)
    return name
