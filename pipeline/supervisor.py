"""Starts, watches, drains and stops the stages; the one place that decides when a run is over."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pipeline.channel import Channel
from pipeline.messages import StageHealth
from pipeline.worker import Worker

__all__ = ["Source", "StageFailed", "Supervisor"]

log = logging.getLogger(__name__)


class StageFailed(Exception):
    """A stage failed or stalled; the text names it and says why."""


class Source(Protocol):
    """Where frames come from: :class:`pipeline.capture.Capture`."""

    def start(self) -> None:
        """Start delivering."""

    def stop(self) -> None:
        """Deliver no more; what was delivered stays readable."""

    def all_finished(self) -> bool:
        """Whether every source is finite and has delivered its last frame."""

    @property
    def error(self) -> Exception | None:
        """Why delivering has failed as a whole, or None."""


class Supervisor:
    """Runs a chain of workers fed by a source.

    Args:
        source: Feeds the first worker's inlet.
        workers: Upstream first; each one's outlet is the next one's inlet.
        on_abandoned: Called with each item that a run cut short leaves in a channel.
        stall_timeout_s: A stage with waiting work and no progress for so long has stalled. It is
            far above any stage's own time-out, which comes first.
        drain_timeout_s: How long :meth:`drain` waits before it cuts the run short.

    """

    def __init__(
        self,
        source: Source,
        workers: Sequence[Worker[Any, Any]],
        on_abandoned: Callable[[Any], None] = lambda item: None,
        stall_timeout_s: float = 240.0,
        drain_timeout_s: float = 60.0,
    ) -> None:
        self._source = source
        self._workers = tuple(workers)
        self._on_abandoned = on_abandoned
        self._stall_timeout_s = stall_timeout_s
        self._drain_timeout_s = drain_timeout_s
        self._wake = threading.Event()
        self._stop_requested = False

    def start(self) -> None:
        """Open every stage, downstream first, then let frames in.

        Raises:
            StageFailed: A stage could not open; nothing is left running.

        """
        for worker in reversed(self._workers):
            worker.start()
            worker.opened.wait()
            if worker.error is not None:
                self.drain()
                raise self._failure() or StageFailed(worker.stage.name)
        self._source.start()

    def request_stop(self) -> None:
        """Ask :meth:`wait` to return; safe to call from a signal handler or any thread."""
        self._stop_requested = True
        self._wake.set()

    def stage_failed(self, worker: Worker[Any, Any]) -> None:
        """Callback for workers: wake up and end the run."""
        log.debug("stage %s reports a failure", worker.stage.name)
        self._wake.set()

    def wait(self, poll_s: float = 0.2, on_poll: Callable[[], None] = lambda: None) -> bool:
        """Wait until the sources have ended, a stop is asked for, or a stage fails.

        Returns:
            True when the sources ended by themselves, False when a stop was asked for.

        Raises:
            StageFailed: A stage failed or stalled. The run is still to be drained.

        """
        while True:
            failure = self.failure()
            if failure is not None:
                raise failure
            if self._stop_requested:
                return False
            if self._source.all_finished():
                return True
            self._wake.wait(poll_s)
            on_poll()

    def drain(self) -> None:
        """Let in no more frames, let what is inside come out, and end every thread.

        A run that does not drain in time, or whose chain is broken by a failed stage, is cut
        short: what still waits is given to ``on_abandoned``.

        Raises:
            StageFailed: A stage did not end; its thread is left behind as a daemon would be.

        """
        self._source.stop()
        deadline = time.monotonic() + self._drain_timeout_s
        if self._workers:
            self._workers[0].inlet.channel.close()
        stuck = [w for w in self._workers if not w.join(max(0.0, deadline - time.monotonic()))]
        for channel in self._channels():
            channel.close()
            for item in channel.clear():
                self._on_abandoned(item)
        stuck = [worker for worker in stuck if not worker.join(1.0)]
        if stuck:
            names = ", ".join(worker.stage.name for worker in stuck)
            raise StageFailed(f"stage {names} did not end within {self._drain_timeout_s:g} s")

    def health(self) -> tuple[StageHealth, ...]:
        """Health of every stage, upstream first."""
        return tuple(worker.health() for worker in self._workers)

    def failure(self) -> StageFailed | None:
        """What has failed or stalled, or None."""
        return self._failure() or self._stalled()

    def _channels(self) -> list[Channel[Any]]:
        return [worker.inlet.channel for worker in self._workers]

    def _failure(self) -> StageFailed | None:
        """The first error in the order of the chain; what only follows from it comes after."""
        for worker in self._workers:
            if worker.error is not None:
                failed = StageFailed(f"{worker.stage.name}: {worker.error}")
                failed.__cause__ = worker.error
                return failed
        error = self._source.error
        return None if error is None else StageFailed(f"capture: {error}")

    def _stalled(self) -> StageFailed | None:
        now_ns = time.monotonic_ns()
        for health in self.health():
            idle_s = (now_ns - health.last_progress_monotonic_ns) / 1e9
            if health.queued and idle_s > self._stall_timeout_s:
                return StageFailed(
                    f"{health.stage}: no progress for {idle_s:.0f} s with {health.queued} waiting"
                )
        return None
