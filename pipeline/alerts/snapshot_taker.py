"""From an alert and its frame to the picture that goes with it, and a folder of such pictures."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.alerts.faces import FaceFinder, blur_faces
from pipeline.alerts.snapshot import encode_snapshot
from pipeline.messages import Alert

__all__ = ["SnapshotFolder", "SnapshotTaker"]

log = logging.getLogger(__name__)


class SnapshotFolder:
    """A folder of JPEG files, ``CAMERA/TIME_RULE_ID.jpg``, that never outgrows ``max_bytes``.

    The oldest files go first. A folder that cannot be written is said once and costs no alert.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._silent = False

    def keep(self, alert: Alert, picture: bytes) -> None:
        """Write an alert's picture, and delete the oldest ones past the cap."""
        stamp = alert.stamp
        moment = stamp.captured_at.strftime("%Y%m%dT%H%M%S.%f")
        path = self._directory / stamp.camera / f"{moment}_{alert.rule}_{alert.id}.jpg"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(picture)
            part.replace(path)
            self._make_room()
            self._silent = False
        except OSError as error:
            if not self._silent:
                log.warning("snapshots in %s cannot be kept: %s", self._directory, error)
            self._silent = True

    def _make_room(self) -> None:
        # The time begins the name, so names sort by age within and across cameras.
        files = sorted(self._directory.glob("*/*.jpg"), key=lambda path: path.name)
        sizes = [path.stat().st_size for path in files]
        total = sum(sizes)
        for path, size in zip(files, sizes, strict=True):
            if total <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


class SnapshotTaker:
    """Makes the pictures of alerts: faces blurred and copies kept, where asked for."""

    def __init__(
        self, folder: SnapshotFolder | None = None, faces: FaceFinder | None = None
    ) -> None:
        self._folder = folder
        self._faces = faces

    def take(self, alert: Alert, picture: NDArray[np.uint8]) -> bytes | None:
        """Give an alert's JPEG from its frame, (H, W, 3) uint8 RGB.

        None when faces were to be blurred and the detector failed: rather no picture than theirs.
        """
        if self._faces is not None:
            try:
                picture = blur_faces(picture, self._faces)
            except cv2.error as error:
                log.warning("no picture of alert %s: faces cannot be blurred: %s", alert.id, error)
                return None
        encoded = encode_snapshot(picture, alert.region)
        if self._folder is not None:
            self._folder.keep(alert, encoded)
        return encoded
