"""The pipeline from Python: one call from sources to a summary.

As with everything that starts processes, a script calls it below ``if __name__ == "__main__":``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.assembly import Run
from pipeline.config import Config, load_config
from pipeline.messages import Alert, CameraEvent, Caption
from pipeline.outputs import RunSummary
from pipeline.redaction import redact_loggers
from pipeline.run_setup import read_setup
from pipeline.sources import SourceError

__all__ = ["run"]

log = logging.getLogger(__name__)


def run(
    sources: str | Sequence[str] = (),
    config: Config | str | Path | None = None,
    *,
    start_time: str | None = None,
    on_caption: Callable[[Caption], None] = lambda caption: None,
    on_alert: Callable[[Alert], None] = lambda alert: None,
) -> RunSummary:
    """Caption sources and raise alerts, to their end or Ctrl-C; nothing is printed.

    Args:
        sources: ``[NAME=]SOURCE`` texts as on the command line; the configuration's cameras if
            there are none.
        config: A configuration, or the file of one.
        start_time: When recordings began (RFC 3339), for those that do not say.
        on_caption: Called with each caption, from a thread of the run. An error in it ends the run.
        on_alert: Called with each revision of an alert, in the same way.

    Returns:
        The accounting; its ``error`` tells whether a stage failed, that of each of its ``cameras``
        whether its source did.

    Raises:
        ConfigError: The configuration or the rules cannot be used.
        SourceError: A source cannot be used, or there is none.
        CaptionerError: The model cannot be loaded.
        OutputError: The output directory cannot be written.
        HealthError: ``metrics.port`` is taken, or ``metrics.host`` is none of this machine's.

    """
    redact_loggers()
    texts = [sources] if isinstance(sources, str) else list(sources)
    file = Path(config) if isinstance(config, (str, Path)) else None
    if file is not None:
        config = load_config(file)
    loaded = config if isinstance(config, Config) else Config()
    setup = read_setup(loaded, file, texts, start_time)
    if not setup.specs:
        raise SourceError("nothing to watch: give a source, or a configuration with cameras")
    with Run(setup, _Callbacks(on_caption, on_alert)) as running:
        return running.go()


@dataclass(frozen=True, slots=True)
class _Callbacks:
    """A view for programs: captions and alerts to their callbacks, the rest to the log."""

    on_caption: Callable[[Caption], None]
    on_alert: Callable[[Alert], None]

    def caption(self, caption: Caption) -> None:
        self.on_caption(caption)

    def alert(self, alert: Alert) -> None:
        self.on_alert(alert)

    def camera_event(self, event: CameraEvent) -> None:
        log.warning("camera %s %s: %s", event.camera, event.state.value, event.reason)

    def progress(self, camera: str, position_s: float, duration_s: float | None = None) -> None:
        log.debug("camera %s at %.1f s", camera, position_s)

    def ended(self, camera: str) -> None:
        log.debug("camera %s: files written", camera)

    def message(self, text: str) -> None:
        log.warning("%s", text)
