"""From an alert and its frame to the picture that goes with it."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from pipeline.alerts.faces import FaceFinder, blur_faces
from pipeline.alerts.media_folder import MediaFolder
from pipeline.alerts.snapshot import encode_snapshot
from pipeline.messages import Alert

__all__ = ["SnapshotTaker"]

log = logging.getLogger(__name__)


class SnapshotTaker:
    """Makes the pictures of alerts: faces blurred and copies kept, where asked for."""

    def __init__(self, folder: MediaFolder | None = None, faces: FaceFinder | None = None) -> None:
        self._folder = folder
        self._faces = faces

    def take(self, alert: Alert, picture: NDArray[np.uint8]) -> bytes | None:
        """Give an alert's JPEG from its frame, (H, W, 3) uint8 RGB.

        None when faces were to be blurred and the detector failed: rather no picture than theirs.
        """
        if self._faces is not None:
            try:
                picture = blur_faces(picture, self._faces)
            except Exception as error:  # noqa: BLE001 - an alert goes out whatever fails
                log.warning("no picture of alert %s: faces cannot be blurred: %s", alert.id, error)
                return None
        encoded = encode_snapshot(picture, alert.region)
        if self._folder is not None:
            self._folder.keep(alert, lambda path: path.write_bytes(encoded))
        return encoded
