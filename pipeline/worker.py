"""One stage running: take, process, put. The thread, the queues and the errors live here."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pipeline.channel import Channel, ChannelClosed
from pipeline.messages import StageHealth

__all__ = ["Inlet", "Stage", "Worker"]

log = logging.getLogger(__name__)

In = TypeVar("In")
Out = TypeVar("Out")
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)


class Stage(Protocol[In_contra, Out_co]):
    """What a stage does with items; it holds no thread, no queue and no clock of its own."""

    name: str

    def open(self) -> None:
        """Acquire what the stage needs; called once, in the worker's thread."""

    def process(self, items: Sequence[In_contra]) -> Iterable[Out_co]:
        """Turn items into outputs. With an idle time set, ``items`` may be empty: time passed."""

    def flush(self) -> Iterable[Out_co]:
        """Give what is still held back, after the last items."""

    def close(self) -> None:
        """Release everything; called once, also after an error in :meth:`open`."""


@dataclass(frozen=True, slots=True)
class Inlet(Generic[In]):
    """A channel and how to take from it: batching is a property of the inlet.

    ``idle_s``, when set, is how long to wait before the stage is called with no items.
    """

    channel: Channel[In]
    max_items: int = 1
    linger_s: float = 0.0
    per_lane: int | None = None
    idle_s: float | None = None

    def take(self) -> list[In]:
        """Take the next items; empty when idle or when the channel is drained."""
        return self.channel.take(self.max_items, self.idle_s, self.linger_s, self.per_lane)


class Worker(Generic[In, Out]):
    """Runs one stage in one thread until its inlet is closed and drained.

    When the stage fails, both ends are closed so that no neighbour waits for ever, the error is
    kept in :attr:`error`, and ``on_failure`` is told. Errors in ``close`` are reported likewise.
    ``on_worked`` is told the seconds that each call of the stage took.
    Outputs that nobody takes any more are kept in :attr:`abandoned`, to be booked.
    With ``when_wanted`` nothing is taken before the next stage waits for it: what comes meanwhile
    is then taken together.
    """

    def __init__(
        self,
        stage: Stage[In, Out],
        inlet: Inlet[In],
        outlet: Channel[Out] | None,
        on_failure: Callable[[Worker[Any, Any]], None],
        on_worked: Callable[[str, float], None] = lambda stage, seconds: None,
        when_wanted: bool = False,
    ) -> None:
        self.stage = stage
        self.inlet = inlet
        self.outlet = outlet
        self.error: Exception | None = None
        self.abandoned: list[Out] = []
        self.opened = threading.Event()
        self._on_failure = on_failure
        self._on_worked = on_worked
        self._when_wanted = when_wanted
        self._processed = 0
        self._last_progress_ns = time.monotonic_ns()
        self._busy = False
        # A stage that hangs for ever must not keep the program from ending.
        self._thread = threading.Thread(
            target=self._run, name=f"watchword-{stage.name}", daemon=True
        )

    def start(self) -> None:
        """Start the thread; :attr:`opened` is set when the stage is ready or has failed."""
        self._thread.start()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the thread to end; return whether it has."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def health(self) -> StageHealth:
        """Whether the stage lives, how much waits for it, and when it last moved on."""
        return StageHealth(
            stage=self.stage.name,
            alive=self._thread.is_alive(),
            processed=self._processed,
            queued=len(self.inlet.channel) + int(self._busy),
            last_progress_monotonic_ns=self._last_progress_ns,
            error=None if self.error is None else str(self.error),
        )

    def _run(self) -> None:
        try:
            self.stage.open()
            self.opened.set()
            self._loop()
        except ChannelClosed:
            # Downstream has gone; its error, not this, is what there is to tell.
            log.debug("stage %s: nobody takes its output any more", self.stage.name)
        except Exception as error:  # noqa: BLE001 - whatever a stage raises ends the run, told once
            self._fail(error)
        finally:
            self._close()

    def _loop(self) -> None:
        while True:
            if self._when_wanted and self.outlet is not None:
                self.outlet.wait_until_wanted()
            items = self.inlet.take()
            if not items and self.inlet.channel.drained:
                break
            self._busy = bool(items)
            began_s = time.monotonic()
            waited_s = self._emit(self.stage.process(items))
            if items:
                self._on_worked(self.stage.name, time.monotonic() - began_s - waited_s)
            self._processed += len(items)
            self._progress()
        self._emit(self.stage.flush())

    def _emit(self, outputs: Iterable[Out]) -> float:
        """Pass outputs on; return the seconds that the next stage's queue made us wait.

        The stage finishes what it has in hand even if nobody takes its outputs any more.
        """
        waited_s, gone = 0.0, None
        for output in outputs:
            if self.outlet is None:
                raise TypeError(f"stage {self.stage.name} gave an output and has no outlet")
            before_s = time.monotonic()
            try:
                self.outlet.put(output)
            except ChannelClosed as closed:
                self.abandoned.append(output)
                gone = closed
            waited_s += time.monotonic() - before_s
            self._progress()
        if gone is not None:
            raise gone
        return waited_s

    def _progress(self) -> None:
        self._busy = False
        self._last_progress_ns = time.monotonic_ns()

    def _fail(self, error: Exception) -> None:
        log.debug("stage %s failed", self.stage.name, exc_info=error)
        if self.error is None:
            self.error = error
        self._on_failure(self)

    def _close(self) -> None:
        self.inlet.channel.close()
        try:
            self.stage.close()
        except Exception as error:  # noqa: BLE001 - a failing close is a failure of the run too
            self._fail(error)
        finally:
            if self.outlet is not None:
                self.outlet.close()
            self.opened.set()
