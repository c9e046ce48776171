"""Log lines that nobody waits for: a stopped terminal must not stop who has something to tell."""

from __future__ import annotations

import logging
import queue
import sys
import threading

__all__ = ["LogLines"]

_MOST_WAITING = 1000
_PATIENCE_S = 2.0


class LogLines(logging.Handler):
    """Writes to what ``sys.stderr`` is at the time: a live table puts such lines above itself.

    It writes from a thread of its own. A reader that has stopped (Ctrl-S) loses lines when
    ``most_waiting`` wait; how many is told when it reads again. (The standard library's queue
    listener counts nothing and waits at its end for as long as nobody reads.)
    """

    def __init__(self, most_waiting: int = _MOST_WAITING) -> None:
        super().__init__()
        self._lines: queue.Queue[str] = queue.Queue(most_waiting)
        self._lost = 0
        self._counting = threading.Lock()  # not the handler's: who flushes at the exit holds that
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line on; only one thread at a time is here (:meth:`logging.Handler.handle`)."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="watchword-log", daemon=True)
            self._thread.start()
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            with self._counting:
                self._lost += 1
        except (KeyError, TypeError, ValueError):  # a message that does not fit its arguments
            self.handleError(record)

    def flush(self) -> None:
        """Wait until all is written, and no longer than two seconds: nobody may be reading."""
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(
                lambda: not self._lines.unfinished_tasks, _PATIENCE_S
            )

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            with self._counting:
                lost, self._lost = self._lost, 0
            if lost:
                line = f"{line}\n{lost} log lines were lost: nobody read them"
            try:
                sys.stderr.write(f"{line}\n")
                sys.stderr.flush()
            except (OSError, ValueError):  # it has been closed, and there is nobody to tell
                pass
            finally:
                self._lines.task_done()
