"""Key frames alone, by PyAV: a fifteenth of the decoding, where a picture a second or two will do.

OpenCV decodes every frame whatever is done with it; only a reader that sees the packets can leave
the others undecoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config import CaptureConfig
from pipeline.grab_messages import SourceInfo
from pipeline.open_errors import OpenError, explain_file, explain_network
from pipeline.readers import Grab, ffmpeg_options
from pipeline.sources import Source

__all__ = ["KeyFrameReader"]

_TURNS = {
    90: cv2.ROTATE_90_COUNTERCLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_CLOCKWISE,
}


class KeyFrameReader:
    """A video file or network stream of which only key frames are decoded."""

    def __init__(self, source: Source, config: CaptureConfig) -> None:
        self._av = _library(source)
        self._source = source
        try:
            self._container = self._av.open(
                source.location,
                options=ffmpeg_options(source, config),
                timeout=(config.open_timeout_s, config.read_timeout_s),
            )
        except (OSError, ValueError, self._av.FFmpegError):  # its text may hold the URL
            raise self._explain(config) from None
        if not self._container.streams.video:
            self._container.close()
            raise self._explain(config)
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_count = 1
        self._packets: Iterator[Any] = self._container.demux(self._stream)
        self._frame: Any = None
        self.info = self._describe()

    def grab(self) -> Grab:
        """Go on by one packet; a key frame is decoded at once, without waiting for the next."""
        try:
            packet = next(self._packets, None)
            if packet is None or packet.size == 0:
                return Grab.END
            if not packet.is_keyframe:
                return Grab.SKIPPED
            context = self._stream.codec_context
            frames = [*context.decode(packet), *context.decode(None)]
            context.flush_buffers()
        except (OSError, self._av.FFmpegError):
            return Grab.END
        if not frames:
            return Grab.SKIPPED
        self._frame = frames[-1]
        return Grab.FRAME

    def retrieve(self) -> NDArray[np.uint8] | None:
        """Return the key frame, (H, W, 3) uint8 BGR, turned upright as the file says.

        None when a part of it was lost on the way, which OpenCV does not tell.
        """
        if self._frame.is_corrupt:
            return None
        image: NDArray[np.uint8] = self._frame.to_ndarray(format="bgr24")
        turn = _TURNS.get(int(getattr(self._frame, "rotation", 0)) % 360)
        return image if turn is None else np.asarray(cv2.rotate(image, turn), np.uint8)

    def position_s(self) -> float:
        """Return the presentation time, seconds."""
        return float(self._frame.time or 0.0)

    def close(self) -> None:
        """Release the decoder and the connection."""
        self._container.close()

    def _explain(self, config: CaptureConfig) -> OpenError:
        if self._source.live:
            return explain_network(self._source, config.open_timeout_s)
        return explain_file(self._source)

    def _describe(self) -> SourceInfo:
        context = self._stream.codec_context
        duration = self._container.duration
        duration_s = None if self._source.live or duration is None else duration / 1e6
        rate = float(self._stream.average_rate or 0.0)
        return SourceInfo(context.width, context.height, rate, None, duration_s)


def _library(source: Source) -> Any:
    try:
        import av  # noqa: PLC0415 - an optional dependency
    except ImportError:
        raise OpenError(
            f"{source.display}: key_frames_only needs PyAV; pip install 'watchword[keyframes]'",
            refused=True,
        ) from None
    return av
