"""What could not be written to the cameras' journals: told, counted, and passed over.

A disk that is full for an hour must not end the run: captions and alerts go on to whoever listens,
and the files of that hour have a gap.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.outputs.files import OutputError, reason_of

__all__ = ["Gaps"]

log = logging.getLogger(__name__)

_QUIET_S = 5.0
"""A disk that is nearly full takes a short line now and then; that is no end of the trouble."""


@dataclass
class Gaps:
    """The gaps of a run's files; its owner sees that one thread at a time calls.

    ``counts`` is by camera, what it was (``captions`` and the like) and reason; ``problem`` says
    why what comes now is not written, and is None while all is. ``clock`` is monotonic, in seconds.
    """

    clock: Callable[[], float] = time.monotonic
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    problem: str | None = None
    _last_s: float = 0.0

    def lost(self, camera: str, what: str, error: OutputError) -> None:
        """Count one that was not written; the first is told."""
        if self.problem is None:
            log.warning("%s; the run goes on, and the files lack what comes meanwhile", error)
        self.problem, self._last_s = str(error), self.clock()
        self.counts[camera, what, reason_of(error)] += 1

    def written(self) -> None:
        """Note that one was written; after the last one lost it is told, when it is sure."""
        if self.problem is not None and self.clock() - self._last_s >= _QUIET_S:
            self.problem = None
            log.warning("the output files can be written again; %s", self.told())

    def of(self, camera: str) -> bool:
        """Whether this camera's files have a gap."""
        return any(name == camera for name, _, _ in self.counts)

    def told(self) -> str | None:
        """Say in a sentence what is missing; None where nothing is."""
        if not self.counts:
            return None
        each = (
            f"{camera}: {what} {count} ({reason})"
            for (camera, what, reason), count in sorted(self.counts.items())
        )
        return f"the files lack what could not be written: {', '.join(each)}"
