"""Frame by frame out of a source: OpenCV's FFmpeg for video, image files for a folder."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config import CaptureConfig
from pipeline.grab_messages import SourceInfo
from pipeline.open_errors import OpenError, explain_device, explain_file, explain_network
from pipeline.sources import Source, SourceKind, images_in

__all__ = [
    "FolderReader",
    "FrameReader",
    "Grab",
    "VideoReader",
    "ffmpeg_options",
    "open_reader",
    "quiet_libraries",
]

# What FFmpeg may open from where: a playlist from the network must never reach local files.
_PROTOCOLS = {
    SourceKind.FILE: "file",
    SourceKind.RTSP: "rtsp,rtp,udp,tcp",
    SourceKind.RTSPS: "rtsps,rtsp,rtp,udp,tcp,tls,srtp",
    SourceKind.HTTP: "http,https,tls,tcp,crypto",
    SourceKind.HTTPS: "http,https,tls,tcp,crypto",
}


# Threads of a live stream's decoder. FFmpeg takes one a core unless told: on sixteen cores 130 MB a
# 1080p camera in place of 38, and pictures that come up to 15 frames late. Two keep up with 4K.
_LIVE_DECODER_THREADS = 2


class Grab(Enum):
    """What one step of a reader brought."""

    FRAME = "frame"
    SKIPPED = "skipped"  # the source lives, but this was nothing to look at
    END = "end"  # or a fault


class FrameReader(Protocol):
    """A source that is open."""

    info: SourceInfo

    def grab(self) -> Grab:
        """Go one step on."""

    def retrieve(self) -> NDArray[np.uint8] | None:
        """Return the grabbed frame, (H, W, 3) uint8 BGR, or None when it cannot be decoded.

        The next call may write over it.
        """

    def position_s(self) -> float:
        """Return the decoder's media time of the grabbed frame, seconds."""

    def close(self) -> None:
        """Release the source."""


def quiet_libraries() -> None:
    """Keep OpenCV and FFmpeg from printing: their lines may hold URLs with passwords."""
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    cv2.setNumThreads(1)


def open_reader(source: Source, config: CaptureConfig) -> FrameReader:
    """Open a source.

    Raises:
        OpenError: It cannot be opened; the sentence says why and what to do.

    """
    if source.kind is SourceKind.FOLDER:
        return FolderReader(source, config.analysis_fps)
    if config.key_frames_only and source.kind is not SourceKind.DEVICE:
        from pipeline.key_frames import KeyFrameReader  # noqa: PLC0415 - it imports this module

        return KeyFrameReader(source, config)
    return VideoReader(source, config)


class VideoReader:
    """A video file, a network stream or a camera of this machine."""

    def __init__(self, source: Source, config: CaptureConfig) -> None:
        options = ffmpeg_options(source, config)
        os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "|".join(
            f"{key};{value}" for key, value in options.items()
        )
        self._capture = _open_capture(source, config)
        if not self._capture.isOpened():
            if source.kind is SourceKind.DEVICE:
                raise explain_device(source)
            if source.live:
                raise explain_network(source, config.open_timeout_s)
            raise explain_file(source)
        self._image: NDArray[np.uint8] | None = None
        self.info = self._describe(source.live)

    def grab(self) -> Grab:
        """Go to the next frame (decodes it)."""
        return Grab.FRAME if self._capture.grab() else Grab.END

    def retrieve(self) -> NDArray[np.uint8] | None:
        """Return the grabbed frame, turned upright as the file says."""
        # Into the same memory each time: fresh pages for 6 MB cost more than filling them.
        ok, image = self._capture.retrieve(self._image)
        if not ok or image is None or image.size == 0:
            return None
        if image.ndim == 2:
            return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)
        self._image = np.asarray(image, np.uint8)
        return self._image

    def position_s(self) -> float:
        """Return the presentation time, seconds."""
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000.0

    def close(self) -> None:
        """Release the decoder and the connection."""
        self._capture.release()

    def _describe(self, live: bool) -> SourceInfo:
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        frames = count if not live and count > 0 else None
        duration_s = frames / fps if frames and 0.01 <= fps <= 1000.0 else None
        width = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        height = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        hardware = self._capture.get(cv2.CAP_PROP_HW_ACCELERATION) > cv2.VIDEO_ACCELERATION_NONE
        return SourceInfo(width, height, fps, frames, duration_s, hardware)


class FolderReader:
    """A folder of pictures, or one picture: every one is looked at, ``fps`` of them a second."""

    def __init__(self, source: Source, fps: float) -> None:
        path = Path(source.location)
        if not path.exists():
            raise OpenError(f"{source.display}: no such file; check the path")
        self._paths = images_in(path) if path.is_dir() else [path]
        self._index = -1
        self._fps = fps
        count = len(self._paths)
        self.info = SourceInfo(0, 0, fps, count, count / fps)

    def grab(self) -> Grab:
        """Go to the next picture."""
        self._index += 1
        return Grab.FRAME if self._index < len(self._paths) else Grab.END

    def retrieve(self) -> NDArray[np.uint8] | None:
        """Read the picture; None when it is no readable image."""
        try:
            raw = np.fromfile(self._paths[self._index], np.uint8)
        except OSError:
            return None  # counted as failed by the grabber
        if raw.size == 0:
            return None
        image = cv2.imdecode(raw, cv2.IMREAD_COLOR)
        return None if image is None else np.asarray(image, np.uint8)

    def position_s(self) -> float:
        """Return the nominal time, seconds."""
        return self._index / self._fps

    def close(self) -> None:
        """Nothing to release."""


def ffmpeg_options(source: Source, config: CaptureConfig) -> dict[str, str]:
    """Return what FFmpeg is told of a source; nothing of it comes from the URL."""
    options: dict[str, str] = {}
    if source.kind in _PROTOCOLS:
        options["protocol_whitelist"] = _PROTOCOLS[source.kind]
    if source.kind in (SourceKind.RTSP, SourceKind.RTSPS):
        options["rtsp_transport"] = config.transport
        # FFmpeg reads twenty frames to find the rate, four seconds of a slow camera, which nothing
        # of a live stream needs: its frames have the time at which they came.
        options["fpsprobesize"] = "2"
    return options


def _open_capture(source: Source, config: CaptureConfig) -> cv2.VideoCapture:
    if source.kind is SourceKind.DEVICE:
        return cv2.VideoCapture(int(source.location))
    limits = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        int(config.open_timeout_s * 1000),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        int(config.read_timeout_s * 1000),
    ]
    if source.live:
        limits += [cv2.CAP_PROP_N_THREADS, _LIVE_DECODER_THREADS]
    if config.hardware_decoding:  # falls back to the processor where there is nothing else
        limits += [cv2.CAP_PROP_HW_ACCELERATION, cv2.VIDEO_ACCELERATION_ANY]
    return cv2.VideoCapture(source.location, cv2.CAP_FFMPEG, limits)
