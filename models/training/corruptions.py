"""What cameras do to pictures: for training (augmentation) and for measuring robustness.

Every corruption takes a uint8 RGB picture (H, W, 3), a severity from 1 to 5 and a generator, and
returns a new picture of the same size. The scale of severities follows Hendrycks and Dietterich
2019 (Benchmarking Neural Network Robustness to Common Corruptions): 1 is hardly seen, 5 is bad.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["CORRUPTIONS", "augmented", "corrupt"]

Picture = NDArray[np.uint8]
Corruption = Callable[[Picture, int, np.random.Generator], Picture]


def corrupt(name: str, image: Picture, severity: int, random: np.random.Generator) -> Picture:
    """Apply one of :data:`CORRUPTIONS`.

    Raises:
        ValueError: There is no such corruption, or the severity is not 1 to 5.

    """
    if name not in CORRUPTIONS or not 1 <= severity <= 5:
        raise ValueError(f"no corruption {name!r} of severity {severity}: {', '.join(CORRUPTIONS)}")
    return CORRUPTIONS[name](image, severity, random)


def augmented(image: Picture, random: np.random.Generator) -> Picture:
    """Return a picture as another camera might have taken it: for training.

    A crop of at least 60 % of the area and of another aspect, mirrored half the time; brightness
    and colour shift; and for every second picture one corruption of severity 1 to 3.
    """
    picture = _crop(image, random)
    if random.random() < 0.5:
        picture = picture[:, ::-1]
    picture = _colour(picture, random)
    if random.random() < 0.5:
        name = str(random.choice(list(CORRUPTIONS)))
        picture = corrupt(name, picture, int(random.integers(1, 4)), random)
    return np.ascontiguousarray(picture)


def _crop(image: Picture, random: np.random.Generator) -> Picture:
    height, width = image.shape[:2]
    area, aspect = random.uniform(0.6, 1.0), np.exp(random.uniform(-0.25, 0.25))
    rows = min(height, round(height * np.sqrt(area / aspect)))
    columns = min(width, round(width * np.sqrt(area * aspect)))
    top = int(random.integers(0, height - rows + 1))
    left = int(random.integers(0, width - columns + 1))
    return image[top : top + rows, left : left + columns]


def _colour(image: Picture, random: np.random.Generator) -> Picture:
    gain = random.uniform(0.8, 1.2, 3) * random.uniform(0.8, 1.2)
    shift = random.uniform(-20, 20)
    return _clipped(image.astype(np.float32) * gain.astype(np.float32) + np.float32(shift))


def _low_light(image: Picture, severity: int, random: np.random.Generator) -> Picture:
    dark = 255.0 * (image / 255.0) ** (1 + 0.4 * severity) * (1 - 0.12 * severity)
    noise = random.normal(0, 2.5 * severity, image.shape)
    return _clipped(dark + noise)


def _infrared(image: Picture, severity: int, random: np.random.Generator) -> Picture:
    """Night view: grey, washed out, brighter in the middle where the lamps point."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    height, width = grey.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    lamp = 1 - 0.12 * severity * (x**2 + y**2)
    contrast = 1 - 0.08 * severity
    lit = (grey - 128) * contrast + 128 * lamp
    return _clipped(np.repeat(lit[:, :, None], 3, 2) + random.normal(0, severity, (*grey.shape, 1)))


def _blur(image: Picture, severity: int, random: np.random.Generator) -> Picture:
    sigma = 0.35 * severity * max(image.shape[:2]) / 256
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def _motion_blur(image: Picture, severity: int, random: np.random.Generator) -> Picture:
    length = max(3, round((1 + 2 * severity) * max(image.shape[:2]) / 256)) | 1
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1 / length
    turn = cv2.getRotationMatrix2D((length / 2 - 0.5,) * 2, float(random.uniform(0, 180)), 1)
    kernel = np.asarray(cv2.warpAffine(kernel, turn, (length, length)), np.float32)
    blurred: Picture = cv2.filter2D(image, -1, kernel / kernel.sum()).astype(np.uint8)
    return blurred


def _noise(image: Picture, severity: int, random: np.random.Generator) -> Picture:
    return _clipped(image + random.normal(0, 6.0 * severity, image.shape))


def _jpeg(image: Picture, severity: int, random: np.random.Generator) -> Picture:
    quality = (40, 25, 18, 12, 8)[severity - 1]
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if decoded is None:
        raise ValueError("a picture just written as JPEG cannot be read")
    return np.asarray(decoded, np.uint8)


def _rain(image: Picture, severity: int, random: np.random.Generator) -> Picture:
    height, width = image.shape[:2]
    layer = np.zeros((height, width), np.uint8)
    slant = int(random.integers(-4, 5))
    for _ in range(40 * severity):
        x, y = int(random.integers(0, width)), int(random.integers(0, height))
        cv2.line(layer, (x, y), (x + slant, y + height // 12), 200, 1)
    veil = cv2.GaussianBlur(layer, (0, 0), 0.7).astype(np.float32)[:, :, None]
    fog = 1 - 0.05 * severity
    return _clipped(image * fog + 255 * (1 - fog) * 0.6 + 0.5 * veil)


def _overlay(image: Picture, severity: int, random: np.random.Generator) -> Picture:
    """Camera name and clock burnt into the picture, as recorders do."""
    marked: Picture = np.ascontiguousarray(image).copy()
    height = marked.shape[0]
    scale = height / 256 * (0.3 + 0.08 * severity)
    stamp = f"CAM {random.integers(1, 33):02d}  2026-{random.integers(1, 13):02d}-17 06:12:40"
    for line, y in ((stamp, int(14 * scale * 2)), ("REC", height - 6)):
        at, font = (4, y), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(marked, line, at, font, scale, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(marked, line, at, font, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return marked


def _off_angle(image: Picture, severity: int, random: np.random.Generator) -> Picture:
    """A camera hung high or askew: a change of perspective, edges repeated."""
    height, width = image.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    reach = 0.035 * severity * min(height, width)
    moved = corners + random.uniform(-reach, reach, (4, 2)).astype(np.float32)
    transform = cv2.getPerspectiveTransform(corners, moved)
    warped = cv2.warpPerspective(image, transform, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8)


def _clipped(values: NDArray[np.floating]) -> Picture:
    clipped: Picture = np.clip(values, 0, 255).astype(np.uint8)
    return clipped


CORRUPTIONS: dict[str, Corruption] = {
    "low_light": _low_light,
    "infrared": _infrared,
    "blur": _blur,
    "motion_blur": _motion_blur,
    "noise": _noise,
    "jpeg": _jpeg,
    "rain": _rain,
    "overlay": _overlay,
    "off_angle": _off_angle,
}
"""By name; each is a pure function of its picture, severity and generator."""
