"""A clip that costs little to stream: many servers fit on one core beside what is measured."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tests.capture_run import CLIPS
from tests.media import write_video

__all__ = ["LIGHT_FPS", "full_hd_clip", "light_clip"]

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


def full_hd_clip(folder: Path, frames: int = 150) -> Path:
    """Write a street clip at 1920 x 1080, 25 frames a second, with a sensor's noise upon it."""
    capture, random = cv2.VideoCapture(str(CLIPS / "bikes.mp4")), np.random.default_rng(0)
    noise = random.normal(0, 4, (1080, 1920, 3)).astype(np.int16)
    pictures = []
    for number in range(frames):
        _, image = capture.read()
        large = cv2.cvtColor(cv2.resize(image, (1920, 1080)), cv2.COLOR_BGR2RGB)
        moved = np.roll(noise, 37 * number, axis=(0, 1))
        pictures.append(np.clip(large + moved, 0, 255).astype(np.uint8))
    times_s = [k / 25 for k in range(frames)]
    return write_video(folder / "full_hd.mp4", times_s, (1920, 1080), gop=50, pictures=pictures)
