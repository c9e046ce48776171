"""A folder of files that go with alerts, which never outgrows its size."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from datetime import timezone
from pathlib import Path

from pipeline.messages import Alert

__all__ = ["MediaFolder"]

log = logging.getLogger(__name__)

_ABANDONED_S = 3600.0  # a file still unfinished after so long was left by a kill
# As MediaFolder.path makes it: moment, rule and id; without the suffix.
_NAME = r"\d{8}T\d{6}\.\d{6}_[A-Za-z0-9][A-Za-z0-9_.-]{0,63}_[0-9a-f]{20}"


class MediaFolder:
    """Files ``CAMERA/TIME_RULE_ID.SUFFIX``, at most ``max_bytes`` together; the oldest go first.

    The time (UTC) is when the alert was first seen. Whatever else lies there (a recorder's own
    files, say) neither counts nor goes. A folder that cannot be written is said once and costs no
    alert.
    """

    def __init__(self, directory: Path, suffix: str, max_bytes: int) -> None:
        self._directory = directory
        self._suffix = suffix
        self._own = re.compile(f"{_NAME}{re.escape(suffix)}(\\.part)?", re.ASCII)
        self._max_bytes = max_bytes
        self._silent = False

    def path(self, alert: Alert) -> Path:
        """Where an alert's file lies, whether it is there already or not."""
        moment = alert.first_seen.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")
        name = f"{moment}_{alert.rule}_{alert.id}{self._suffix}"
        return self._directory / alert.stamp.camera / name

    def keep(self, alert: Alert, write: Callable[[Path], object]) -> None:
        """Let ``write`` make an alert's file, whole or not at all; beyond the cap the oldest go."""
        path = self.path(alert)
        part = path.with_name(f"{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(part)
            part.replace(path)
            self._make_room()
            self._silent = False
        except OSError as error:
            if not self._silent:
                log.warning("%s cannot be kept: %s", path, error)
            self._silent = True

    def _make_room(self) -> None:
        for part in self._own_files(".part"):
            if time.time() - part.stat().st_mtime > _ABANDONED_S:
                part.unlink(missing_ok=True)
        # The time begins the name, so names sort by age within and across cameras.
        files = sorted(self._own_files(), key=lambda path: path.name)
        sizes = [path.stat().st_size for path in files]
        total = sum(sizes)
        for path, size in zip(files, sizes, strict=True):
            if total <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size

    def _own_files(self, end: str = "") -> list[Path]:
        """Files that this program has made, by their names: nothing else is ever deleted."""
        found = self._directory.glob(f"*/*{self._suffix}{end}")
        return [path for path in found if self._own.fullmatch(path.name)]
