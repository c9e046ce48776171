"""A picture to confirm an alert by eye: a JPEG small enough to live in Redis."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.messages import Region

__all__ = ["MAX_SNAPSHOT_BYTES", "encode_snapshot"]

MAX_SNAPSHOT_BYTES = 64 * 1024
_QUALITIES = (85, 70, 55, 40, 25)
_OUTLINE_RGB = (255, 64, 64)


def encode_snapshot(
    picture: NDArray[np.uint8], region: Region | None, max_bytes: int = MAX_SNAPSHOT_BYTES
) -> bytes:
    """Encode an (H, W, 3) uint8 RGB picture, the region outlined, in at most ``max_bytes``.

    Quality is lowered first, then size halved, until it fits.
    """
    drawn = picture.copy()
    if region is not None:
        _outline(drawn, region)
    while True:
        for quality in _QUALITIES:
            done, data = cv2.imencode(
                ".jpg", drawn[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality]
            )
            if done and data.size <= max_bytes:
                return bytes(data.tobytes())
        if min(drawn.shape[:2]) < 2:
            raise ValueError(f"no JPEG fits into {max_bytes} bytes")
        half = (max(1, drawn.shape[1] // 2), max(1, drawn.shape[0] // 2))
        drawn = cv2.resize(drawn, half, interpolation=cv2.INTER_AREA).astype(np.uint8)


def _outline(picture: NDArray[np.uint8], region: Region) -> None:
    height, width = picture.shape[:2]
    corner = (int(region.x * width), int(region.y * height))
    opposite = (
        min(width - 1, int((region.x + region.width) * width)),
        min(height - 1, int((region.y + region.height) * height)),
    )
    cv2.rectangle(picture, corner, opposite, _OUTLINE_RGB, 2)
