"""Hot reload: what differs between two configurations, and when to look.

A run reads its configuration again on ``SIGHUP`` or when one of its files has changed. What differs
is applied to the running stages; cameras that are the same are not touched. A file that cannot be
used changes nothing, and says why.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.camera_feed import CameraSpec
from pipeline.config import Config
from pipeline.outputs import OutputError
from pipeline.redaction import redact
from pipeline.run_setup import Setup, camera_groups, signatures
from pipeline.sources import SourceError
from pipeline.yaml_models import ConfigError

__all__ = ["Differences", "Reloader", "differences"]

log = logging.getLogger(__name__)

_FIXED_SECTIONS = tuple(
    section for section in Config.model_fields if section not in ("cameras", "capture", "rules")
)
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Differences:
    """What to do to a running chain; ``needs_restart`` names sections that stay as they were."""

    added: tuple[CameraSpec, ...]
    changed: tuple[CameraSpec, ...]
    removed: tuple[str, ...]
    rules: bool
    needs_restart: tuple[str, ...]

    def __str__(self) -> str:
        parts = [
            f"{what} {', '.join(names)}"
            for what, names in (
                ("added", [spec.name for spec in self.added]),
                ("changed", [spec.name for spec in self.changed]),
                ("removed", list(self.removed)),
            )
            if names
        ]
        if self.rules:
            parts.append("rules changed")
        if self.needs_restart:
            parts.append(f"{', '.join(self.needs_restart)} stay as they were until a restart")
        return "; ".join(parts) or "nothing differs"


def differences(old: Setup, new: Setup) -> Differences:
    """Compare two set-ups, camera by camera."""
    before = {spec.name: spec for spec in old.specs}
    after = {spec.name: spec for spec in new.specs}
    rules = old.rules.version != new.rules.version
    return Differences(
        added=tuple(spec for name, spec in after.items() if name not in before),
        changed=tuple(
            spec for name, spec in after.items() if name in before and spec != before[name]
        ),
        removed=tuple(name for name in before if name not in after),
        rules=rules or camera_groups(old.config) != camera_groups(new.config),
        needs_restart=tuple(
            section
            for section in _FIXED_SECTIONS
            if getattr(old.config, section) != getattr(new.config, section)
        ),
    )


class Reloader:
    """Looks at the files once a second and reloads when they have changed and come to rest.

    Args:
        setup: What the run was started with.
        reread: Reads everything anew.
        apply: Brings a running chain to the new set-up.
        say: Tells the user, one line each time.
        clock: Monotonic seconds.

    """

    def __init__(
        self,
        setup: Setup,
        reread: Callable[[], Setup],
        apply: Callable[[Setup, Differences], None],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._setup = setup
        self._reread = reread
        self._apply = apply
        self._say = say
        self._clock = clock
        self._requested = threading.Event()
        # As they were when they were read: they may have changed while the model was loading.
        self._loaded = self._seen = setup.signatures or signatures(setup.files)
        self._look_at_s = clock() + _LOOK_EVERY_S

    def request(self) -> None:
        """Reload at the next :meth:`poll`; safe to call from a signal handler."""
        self._requested.set()

    def poll(self) -> None:
        """Reload if asked to or if a file has changed; call this often, from one thread."""
        if self._requested.is_set() or self._files_have_changed():
            self._requested.clear()
            self._reload()

    def _files_have_changed(self) -> bool:
        if self._clock() < self._look_at_s:
            return False
        self._look_at_s = self._clock() + _LOOK_EVERY_S
        before, self._seen = self._seen, signatures(self._setup.files)
        at_rest = before == self._seen  # an editor may still be writing
        return at_rest and self._seen != self._loaded

    def _reload(self) -> None:
        self._loaded = self._seen = signatures(self._setup.files)
        try:
            new = self._reread()
            if not new.specs:
                raise SourceError("no camera is left; stop the run instead")
            found = differences(self._setup, new)
            self._apply(new, found)
        except (ConfigError, SourceError, OutputError, ValueError, OSError) as error:
            # To the log, and not to what --quiet silences: somebody waits for this change.
            log.warning("not reloaded, the run goes on as it was: %s", redact(str(error)))
            return
        self._setup = new
        self._loaded = self._seen = new.signatures or signatures(new.files)
        self._say(f"reloaded: {found}")
