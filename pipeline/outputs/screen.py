"""A screen that nobody waits for: what is to be shown goes to a thread of its own.

Whoever stops a terminal (Ctrl-S) or the reader of a pipe stops what is printed, and nothing else:
files, the store and those who subscribe must not wait for a screen.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from functools import partial

from pipeline.messages import Alert, CameraEvent, Caption
from pipeline.outputs.view import Display, View

__all__ = ["Screen"]

log = logging.getLogger(__name__)

_MOST_WAITING = 2048
_PATIENCE_S = 10.0
# A reader takes some kilobytes at once from a pipe, and may need a second or two for each line of
# them. It must be less than what a stage may stand still (pipeline/supervisor.py).
_PATIENCE_WITH_A_SLOW_READER_S = 60.0


class Screen:
    """View that hands everything on, in order, to another.

    To a :class:`Display` from a thread of its own, from :meth:`start` on: of a reader that does
    not keep up ``most_waiting`` calls wait, further captions are counted and not shown, and so is
    everything from twice as many on. To another view, such as a program's callbacks, at once.

    Recordings can wait for a reader who is slow: then nothing is lost by it. Nobody waits for one
    who has stopped reading.

    Args:
        shown: What shows it.
        waits: Whether to wait for a reader who reads on, however slowly: nothing live is watched.
        most_waiting: How many calls may wait.
        patience_s: How long nothing may move before nobody is taken to read; 10 seconds, with
            ``waits`` 60.

    """

    def __init__(
        self,
        shown: View,
        waits: bool = False,
        most_waiting: int = _MOST_WAITING,
        patience_s: float | None = None,
    ) -> None:
        self._shown = shown
        self.waits = waits
        """May be set at any time: a live camera may be added to recordings."""
        self._display = shown if isinstance(shown, Display) else None
        self._most_waiting = most_waiting
        self._given_patience_s = patience_s
        self._waiting: deque[tuple[str, Callable[[], None]]] = deque()
        self._progress: dict[str, tuple[float, float | None]] = {}  # the newest that waits
        self._changed = threading.Condition()
        self._started = self._closing = self._given_up = False
        self._done = self._untold = 0
        self._stopped_at = -1  # what was done when the reader was last seen to have stopped
        self._dropped: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="watchword-screen", daemon=True)
        self.error: Exception | None = None
        """Why nothing is shown any more, or None."""

    def start(self) -> None:
        """From now on let nobody wait for the display."""
        if self._display is not None:
            self._started = True
            self._thread.start()

    def caption(self, caption: Caption) -> None:
        """Show a caption, or drop it where too much waits."""
        self._put(partial(self._shown.caption, caption), "captions")

    def alert(self, alert: Alert) -> None:
        """Show an alert."""
        self._put(partial(self._shown.alert, alert), "alerts", times=2)

    def camera_event(self, event: CameraEvent) -> None:
        """Show that a camera came or went."""
        self._put(partial(self._shown.camera_event, event), "camera events", times=2)

    def progress(self, camera: str, position_s: float, duration_s: float | None = None) -> None:
        """Show how far a recording has been read; of what waits the newest is enough."""
        with self._changed:
            waits = camera in self._progress
            self._progress[camera] = (position_s, duration_s)
        if not waits:
            self._put(partial(self._show_progress, camera))  # one a camera is bounded by itself

    def ended(self, camera: str) -> None:
        """Show that a recording's files are written."""
        self._put(partial(self._shown.ended, camera), "messages", times=2)

    def message(self, text: str) -> None:
        """Show a sentence about the run itself."""
        self._put(partial(self._shown.message, text), "messages", times=2)

    def dropped(self) -> dict[str, int]:
        """Count what was not shown because nobody read fast enough; any thread may ask."""
        with self._changed:
            return dict(self._dropped)

    def drain(self) -> None:
        """Wait until all is shown, or, where nothing has moved for so long, no longer.

        Then a display whose reader is not waited for is given up, and :attr:`error` says so.
        """
        with self._changed:
            while self._started and self.error is None and self._waiting:
                if not self._changed.wait_for(self._moves_on(), self._patience_s):
                    self._give_up()
                    return

    def close(self) -> None:
        """Show what waits, and end the thread, unless nobody reads. Idempotent."""
        self.drain()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._started and not self._given_up:
            self._thread.join()

    def _put(self, show: Callable[[], None], what: str = "", times: int = 1) -> None:
        if not self._started:
            show()
            return
        with self._changed:
            if self.error is not None or self._closing:
                return
            if what and not self._has_room(times * self._most_waiting):
                self._dropped[what] += 1
                self._untold += 1
                return
            self._waiting.append((what, show))
            self._changed.notify_all()

    @property
    def _patience_s(self) -> float:
        usual_s = _PATIENCE_WITH_A_SLOW_READER_S if self.waits else _PATIENCE_S
        return usual_s if self._given_patience_s is None else self._given_patience_s

    def _has_room(self, limit: int) -> bool:
        """Whether one more may wait; a reader who reads on is waited for, where ``waits`` is set.

        One who has not read a line for ``patience_s`` is not waited for until he reads again.
        """

        def is_room() -> bool:
            return len(self._waiting) < limit or self.error is not None

        worth_waiting = self.waits and not is_room() and self._done != self._stopped_at
        if worth_waiting and not self._changed.wait_for(is_room, self._patience_s):
            self._stopped_at = self._done
        return is_room()

    def _moves_on(self) -> Callable[[], bool]:
        """Tell whether something more has been shown since this was called, or never will be."""
        before = self._done
        return lambda: self._done > before or self.error is not None

    def _show_progress(self, camera: str) -> None:
        with self._changed:
            newest = self._progress.pop(camera)
        self._shown.progress(camera, *newest)

    def _run(self) -> None:
        try:
            while (show := self._next()) is not None:
                show()
                with self._changed:
                    self._waiting.popleft()
                    self._done += 1
                    self._changed.notify_all()
        except (Exception, SystemExit) as error:  # whatever it is: the run looks for it, and ends
            log.debug("the screen failed", exc_info=error)
            # A terminal's library ends the thread where its reader has gone.
            gone = BrokenPipeError("nobody reads the output any more")
            with self._changed:
                self.error = self.error or (error if isinstance(error, Exception) else gone)
                self._changed.notify_all()

    def _next(self) -> Callable[[], None] | None:
        """Wait for the next to show, which stays in its place until it is shown; None: no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._untold or self._closing)
            if self.error is None and not self._waiting and self._untold:
                told = f"{self._untold} lines were not shown: the output was not read fast enough"
                self._waiting.append(("messages", partial(self._shown.message, told)))
                self._untold = 0
            return self._waiting[0][1] if self.error is None and self._waiting else None

    def _give_up(self) -> None:
        if self._display is not None and self._display.give_up():
            self._given_up = True
            left = Counter(what for what, _ in self._waiting if what)
            self._dropped += left
            told = ", ".join(f"{what} {count}" for what, count in sorted(left.items()))
            self.error = TimeoutError(f"nobody reads the output; not shown: {told}")
