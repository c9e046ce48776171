"""Starts, watches, drains and stops the stages; the one place that decides when a run is over."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from pipeline.channel import Channel
from pipeline.messages import StageHealth
from pipeline.worker import Worker

__all__ = ["Source", "StageFailed", "Supervisor"]

log = logging.getLogger(__name__)

_JOIN_SLICE_S = 0.2
_LAST_WAIT_S = 1.0


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
        self._stop_requests = 0
        self._watched: dict[str, tuple[int, float]] = {}

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
        """Ask :meth:`wait` to return; safe to call from a signal handler or any thread.

        Asked a second time, :meth:`drain` waits no longer and cuts the run short.
        """
        self._stop_requests += 1
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
            if self._stop_requests:
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
        stuck = [worker for worker in self._workers if not self._joined(worker, deadline)]
        for channel in self._channels():
            channel.close()
            self._abandon(channel.clear())
        stuck = [worker for worker in stuck if not worker.join(_LAST_WAIT_S)]
        for worker in self._workers:
            self._abandon(worker.abandoned)
            worker.abandoned = []
        if stuck:
            names = ", ".join(worker.stage.name for worker in stuck)
            raise StageFailed(f"stage {names} did not end; what was in it is lost")

    def check(self) -> None:
        """Look whether anything failed; after :meth:`drain`, also while draining.

        Raises:
            StageFailed: The first failure in the order of the chain.

        """
        failure = self._failure()
        if failure is not None:
            raise failure

    def health(self) -> tuple[StageHealth, ...]:
        """Health of every stage, upstream first."""
        return tuple(worker.health() for worker in self._workers)

    def failure(self) -> StageFailed | None:
        """What has failed or stalled, or None."""
        return self._failure() or self._stalled()

    def _joined(self, worker: Worker[Any, Any], deadline: float) -> bool:
        """Wait until a worker has ended, the deadline, or a second request to stop."""
        while not worker.join(_JOIN_SLICE_S):
            if self._stop_requests > 1 or time.monotonic() >= deadline:
                return worker.join(0.0)
        return True

    def _abandon(self, items: Iterable[Any]) -> None:
        for item in items:
            self._on_abandoned(item)

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
        """A stage seen with waiting work and no progress at every look for the whole time-out.

        The time counts from the first such look, not from the stage's last progress: a camera
        that was silent for an hour brings work to a stage that has been idle, not stalled.
        """
        now_s = time.monotonic()
        for health in self.health():
            progress_ns, since_s = self._watched.get(health.stage, (-1, now_s))
            if not health.queued or progress_ns != health.last_progress_monotonic_ns:
                since_s = now_s
            self._watched[health.stage] = (health.last_progress_monotonic_ns, since_s)
            if now_s - since_s > self._stall_timeout_s:
                return StageFailed(
                    f"{health.stage}: no progress for {now_s - since_s:.0f} s "
                    f"with {health.queued} waiting"
                )
        return None
