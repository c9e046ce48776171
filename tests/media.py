"""Small clips with faults, made for tests: every picture carries its number."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

CELLS = 8


def picture(number: int, width: int, height: int) -> NDArray[np.uint8]:
    """RGB: a textured ground, and the number's bits as white or black cells along the top."""
    ground = np.random.default_rng(1).integers(60, 180, (height // 8, width // 8, 3))
    image = np.kron(ground, np.ones((8, 8, 1))).astype(np.uint8)
    cell = width // CELLS
    for bit in range(CELLS):
        image[: height // 4, bit * cell : (bit + 1) * cell] = 255 * (number >> bit & 1)
    return image


def number_in(image: NDArray[np.uint8]) -> int:
    """The number that a picture carries, at any size."""
    height, width = image.shape[:2]
    cells = [image[height // 8, int((bit + 0.5) * width / CELLS)].mean() for bit in range(CELLS)]
    return sum(int(level > 127) << bit for bit, level in enumerate(cells))


def write_video(
    path: Path,
    times_s: Sequence[float],
    size: tuple[int, int] = (128, 96),
    gop: int = 12,
    codec: str = "libx264",
    pictures: Sequence[NDArray[np.uint8]] | None = None,
) -> Path:
    """Write one picture a time; its number is its index."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.gop_size = gop
        stream.codec_context.max_b_frames = 0
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, time_s in enumerate(times_s):
            image = picture(index, *size) if pictures is None else pictures[index]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time_s), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_audio(path: Path) -> Path:
    """Write one second of noise without any picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        noise = np.random.default_rng(0).normal(0, 0.1, (1, 16000)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn_quarter(path: Path) -> Path:
    """Set an MP4's display matrix to a quarter turn clockwise; the pictures stay as they are."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd")
    plain = bytes.fromhex("00010000" + "00000000" * 3 + "00010000")
    turned = bytes.fromhex("00000000" + "00010000" + "00000000" + "ffff0000" + "00000000")
    matrix = data.index(plain, at)
    data[matrix : matrix + len(turned)] = turned
    path.write_bytes(data)
    return path


def flip_bytes(data: bytes, seed: int, share: float = 0.002) -> bytes:
    """Change so many bytes at random places after the first 64."""
    random = np.random.default_rng(seed)
    spoilt = np.frombuffer(data, np.uint8).copy()
    places = random.integers(64, len(spoilt), max(1, int(share * len(spoilt))))
    spoilt[places] = random.integers(0, 256, len(places))
    return spoilt.tobytes()
