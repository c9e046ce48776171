"""From JPEG pictures with their times to an MP4 that browsers play (H.264, by PyAV)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.alerts.faces import FaceFinder, blur_faces
from pipeline.errors import WrongUse

__all__ = ["ClipFrame", "require_encoder", "write_clip"]

_TICKS_A_SECOND = 1000
_QUALITY = "26"  # of x264: a person is recognised as one, a megabyte lasts about a minute


@dataclass(frozen=True, slots=True)
class ClipFrame:
    """A picture and when it was taken, in seconds on its camera's own clock."""

    time_s: float
    jpeg: bytes


def require_encoder() -> None:
    """Make sure that clips can be written.

    Raises:
        WrongUse: PyAV is not installed.

    """
    if importlib.util.find_spec("av") is None:
        raise WrongUse("clips.directory needs PyAV; pip install 'watchword[clips]'")


def write_clip(path: Path, frames: Sequence[ClipFrame], faces: FaceFinder | None = None) -> None:
    """Write frames, in order, each shown until the next one's time; no sound.

    ``faces``, where given, are blurred.

    Raises:
        OSError: The file cannot be written.

    """
    import av  # noqa: PLC0415 - an extra

    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            _encode(container, frames, faces)
    except av.FFmpegError as error:
        raise OSError(f"no clip can be written: {error}") from error


def _encode(container: Any, frames: Sequence[ClipFrame], faces: FaceFinder | None) -> None:
    import av  # noqa: PLC0415 - an extra

    stream = container.add_stream("libx264", options={"preset": "veryfast", "crf": _QUALITY})
    height, width = _decoded(frames[0].jpeg, None).shape[:2]
    # H.264 codes colour in blocks of two by two pixels.
    size = stream.width, stream.height = width // 2 * 2, height // 2 * 2
    stream.pix_fmt = "yuv420p"
    ticks = stream.codec_context.time_base = Fraction(1, _TICKS_A_SECOND)
    for frame in frames:
        picture = _decoded(frame.jpeg, faces)
        if (picture.shape[1], picture.shape[0]) != size:
            picture = np.asarray(cv2.resize(picture, size), np.uint8)
        shown = av.VideoFrame.from_ndarray(picture, format="bgr24")
        shown.pts = round((frame.time_s - frames[0].time_s) * _TICKS_A_SECOND)
        shown.time_base = ticks
        container.mux(stream.encode(shown))
    container.mux(stream.encode(None))


def _decoded(jpeg: bytes, faces: FaceFinder | None) -> NDArray[np.uint8]:
    """Return the picture, (H, W, 3) uint8 BGR."""
    picture = np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)
    if faces is None:
        return picture
    # The detector was trained on RGB.
    blurred = blur_faces(np.ascontiguousarray(picture[:, :, ::-1]), faces)
    return np.ascontiguousarray(blurred[:, :, ::-1])
