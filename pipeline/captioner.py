"""The captioner stage, main process side: batches in, captions out, one child process doing it.

The child (:mod:`pipeline.captioner_child`) holds torch and the model and reads frames straight
from the cameras' shared memory. This side starts it, asks it, and replaces it when it dies or
hangs; what was in flight is then booked as failed and the run goes on.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Protocol

from pipeline.batcher import Batch
from pipeline.captioner_child import serve
from pipeline.captioner_messages import Answer, CaptionerOptions, Failure, Ready, Request
from pipeline.ledger import Ledger
from pipeline.messages import Caption, FrameRef, SourceEnd
from pipeline.restarts import RestartBudget
from pipeline.slots import SlotLayout

__all__ = [
    "CaptionedFrame",
    "CaptionerError",
    "CaptionerProcess",
    "CaptionerStage",
    "FrameKeeper",
]

log = logging.getLogger(__name__)

LOAD_TIMEOUT_S = 180.0
# The first start may take longer: a machine too busy to load a model in three minutes would only
# begin again, and lose what it has loaded. While running, a stage that stands still so long stalls.
_FURTHER_LOAD_TIMEOUT_S = 540.0
_NOT_LOADED = (
    f"the captioner has not loaded its model within {LOAD_TIMEOUT_S:g} s; is the machine busy with "
    "other work?"
)
STOP_TIMEOUT_S = 5.0
_PATIENCE_BATCHES = 20
# A silent child is hung, or starved of processor time: were each one killed at the same age, none
# would ever answer on a machine that has become slower than it was at the start.
_MOST_PATIENCE = 16.0
_MOST_SILENCES = 6  # one after the other: it takes all its time, so no budget of restarts ends it
_FIRST_RETRY_S = 0.5
_LONGEST_RETRY_S = 4.0


class CaptionerError(Exception):
    """The captioner cannot go on; the text is one sentence for people.

    ``passing`` says that a further start may bring what this one has not.
    """

    def __init__(self, sentence: str, *, passing: bool = False) -> None:
        super().__init__(sentence)
        self.passing = passing


class FrameKeeper(Protocol):
    """Who owns the frames' memory: :class:`pipeline.capture.Capture`."""

    def layout_of(self, ref: FrameRef) -> SlotLayout:
        """Where the slots lie that a frame not yet released is in."""

    def release(self, ref: FrameRef) -> None:
        """Take a frame's slot back."""

    def holds(self, camera: str) -> bool:
        """Whether a camera is captured, or frames of it are still under way."""


@dataclass(frozen=True, slots=True)
class CaptionedFrame:
    """A caption and the frame it ends with, whose slot is kept until the rules have seen it."""

    caption: Caption
    ref: FrameRef


class CaptionerProcess:
    """A captioner child and the pipe to it; not thread-safe."""

    def __init__(self, options: CaptionerOptions, answer_timeout_s: float) -> None:
        self._options = options
        self._least_patience_s = answer_timeout_s
        self.silences = 0
        """How often in a row the child gave no answer."""
        self._last_answer_s = 0.0
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, or None before it was started."""
        return None if self._process is None else self._process.pid

    def start(self, *, first: bool = False) -> Ready:
        """Start the child and wait until its model is loaded; the ``first`` time longer.

        Raises:
            CaptionerError: The model cannot be loaded; the text says why.

        """
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        process = context.Process(
            target=serve, args=(theirs, self._options), name="watchword-captioner", daemon=True
        )
        try:
            # Ctrl-C goes to the whole foreground group; only the main process may act on it.
            with _interrupt_blocked():
                process.start()
        except OSError as error:  # no memory, or no process more, just now
            self.kill()
            raise CaptionerError(
                f"the captioner process cannot be started: {error.strerror or error}", passing=True
            ) from error
        finally:
            theirs.close()
        self._process = process
        reply = self._receive(LOAD_TIMEOUT_S)
        if reply is None and first and self._process.is_alive():
            log.warning("%s; waiting on", _NOT_LOADED)
            reply = self._receive(_FURTHER_LOAD_TIMEOUT_S)
        if isinstance(reply, Ready):
            self._learn(reply)
            return reply
        hung = self._process.is_alive()
        self.kill()
        if isinstance(reply, Failure):
            # A model that is missing or damaged stays so; memory that others hold comes back.
            raise CaptionerError(reply.message, passing="out of memory" in reply.message.lower())
        if hung:  # another such wait, and the run would be taken to stand still
            raise CaptionerError(_NOT_LOADED)
        raise CaptionerError(
            "the captioner ended while loading its model; run `doctor` to see why", passing=True
        )

    def _learn(self, ready: Ready) -> None:
        """Measure once only, and be patient with a slow machine."""
        self._least_patience_s = max(self._least_patience_s, _PATIENCE_BATCHES * ready.batch_s)
        self._options = replace(
            self._options, max_batch_frames=ready.batch_frames, measure_batch=False
        )

    def _patience_s(self) -> float:
        """Seconds the next answer is waited for: longer after each silence and each slow answer."""
        least_s = self._least_patience_s
        wanted_s = max(least_s * 2.0**self.silences, _PATIENCE_BATCHES * self._last_answer_s)
        return min(wanted_s, _MOST_PATIENCE * least_s)

    def ask(self, request: Request) -> Answer | Failure:
        """Send one request and wait for its answer.

        A :class:`Failure` is returned when the child died, hung or refused; after the first two
        the child has been killed.
        """
        if self._pipe is None:
            raise CaptionerError("the captioner was not started")
        try:
            self._pipe.send(request)
        except (BrokenPipeError, OSError):
            self.kill()
            return Failure("captioner_died", "the captioner process has died")
        patience_s, asked_s = self._patience_s(), time.monotonic()
        reply = self._receive(patience_s)
        if isinstance(reply, (Answer, Failure)):
            self.silences, self._last_answer_s = 0, time.monotonic() - asked_s
            return reply
        died = self._process is None or not self._process.is_alive()
        self.kill()
        if died:
            return Failure("captioner_died", "the captioner process has died")
        self.silences += 1
        return Failure("captioner_hung", f"the captioner gave no answer for {patience_s:g} s")

    def stop(self) -> None:
        """Let the child end by itself, and kill it if it does not. Idempotent."""
        if self._pipe is not None:
            with contextlib.suppress(OSError):
                self._pipe.send(None)
        if self._process is not None:
            self._process.join(STOP_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """End the child at once and free what belongs to it. Idempotent."""
        if self._process is not None:
            if self._process.is_alive():
                self._process.kill()
            self._process.join()
            self._process.close()
        if self._pipe is not None:
            self._pipe.close()
        self._process, self._pipe = None, None

    def _receive(self, timeout_s: float) -> object | None:
        """Next message, or None when the child has died or stays silent."""
        assert self._pipe is not None
        try:
            return self._pipe.recv() if self._pipe.poll(timeout_s) else None
        except (EOFError, OSError):
            if self._process is not None:
                self._process.join(1.0)  # so that "died" is told from "hung"
            return None


class CaptionerStage:
    """Stage: :class:`Batch` in, :class:`CaptionedFrame` out, and what has ended behind them.

    Args:
        process: The child.
        frames: Tells where frames lie, and takes back those that no later stage needs.
        ledger: Books frames and windows.
        budget: Restarts allowed; past it the run ends with :class:`CaptionerError`.

    """

    name = "captioner"

    def __init__(
        self,
        process: CaptionerProcess,
        frames: FrameKeeper,
        ledger: Ledger,
        budget: RestartBudget,
    ) -> None:
        self._process = process
        self._frames = frames
        self._release = frames.release
        self._ledger = ledger
        self._budget = budget
        self._known: dict[str, SlotLayout] = {}
        self._halvings = 0
        self.ready: Ready | None = None
        self.on_worked: Callable[[str, float], None] = lambda part, seconds: None
        """Told how many seconds ``encode`` and ``decode`` took, batch by batch."""

    def open(self) -> None:
        """Nothing: the child is started by the composition root, so that errors come early."""

    def process(self, items: Sequence[Batch]) -> Iterable[CaptionedFrame | SourceEnd]:
        """Caption each batch in turn."""
        for batch in items:
            if batch.refs:
                yield from self._caption(batch)
            yield from batch.ended

    def flush(self) -> Iterable[CaptionedFrame]:
        """Nothing is held back: a batch is asked and answered in one call."""
        return ()

    def close(self) -> None:
        """Stop the child."""
        self._process.stop()

    def _caption(self, batch: Batch) -> Iterator[CaptionedFrame]:
        request = Request(batch.refs, batch.due, self._new_layouts(batch), self._gone_cameras())
        try:
            answer = self._process.ask(request)
        except Exception as error:
            self._book_failure(batch, Failure("captioner_error", str(error)))
            raise
        if isinstance(answer, Failure):
            self._book_failure(batch, answer)
            self._restart(answer)
            return
        self.on_worked("encode", answer.encode_s)
        if answer.captions:
            self.on_worked("decode", answer.decode_s)
        captions = dict(zip(_due_refs(batch), answer.captions, strict=True))
        for ref in batch.refs:
            self._ledger.encoded(ref.stamp.camera)
            caption = captions.get(ref)
            if caption is not None and self._book_caption(caption):
                yield CaptionedFrame(caption, ref)
            else:
                self._release(ref)
        self._tell_limit(answer)

    def _book_caption(self, caption: Caption) -> bool:
        """Book a window; return whether there are words to go on with."""
        camera = caption.stamp.camera
        if not caption.words:
            self._ledger.window_failed(camera, "no_words")
            return False
        self._ledger.captioned(camera)
        if not caption.finished:
            self._ledger.partial(camera)
        return True

    def _tell_limit(self, answer: Answer) -> None:
        if answer.halvings > self._halvings:
            log.warning(
                "out of memory; the captioner takes %d frames at once now", answer.batch_limit
            )
        self._halvings = answer.halvings

    def _new_layouts(self, batch: Batch) -> dict[str, SlotLayout]:
        """Layouts the child does not know yet (a new camera, or one that came back)."""
        layouts: dict[str, SlotLayout] = {}
        for ref in batch.refs:
            camera, layout = ref.stamp.camera, self._frames.layout_of(ref)
            if self._known.get(camera) != layout:
                self._known[camera] = layouts[camera] = layout
        return layouts

    def _gone_cameras(self) -> tuple[str, ...]:
        """Cameras that the child still holds on to and that are captured no more."""
        gone = tuple(camera for camera in self._known if not self._frames.holds(camera))
        for camera in gone:
            del self._known[camera]
        return gone

    def _book_failure(self, batch: Batch, failure: Failure) -> None:
        for ref, due in zip(batch.refs, batch.due, strict=True):
            self._ledger.failed(ref.stamp.camera, failure.reason)
            if due:
                self._ledger.window_failed(ref.stamp.camera, failure.reason)
            self._release(ref)

    def _restart(self, failure: Failure) -> None:
        in_vain = self._process.silences >= _MOST_SILENCES
        if not self._budget.spend(time.monotonic()) or in_vain:
            raise CaptionerError(f"{failure.message}, too often to go on; run `doctor` to see why")
        log.warning("%s; starting it again", failure.message)
        self._process.kill()
        self._known.clear()
        self.ready = self._started_again()

    def _started_again(self) -> Ready:
        """Start the child, also where that fails at first; each try is of the budget."""
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                return self._process.start()
            except CaptionerError as error:
                if not error.passing or not self._budget.spend(time.monotonic()):
                    raise
                log.warning("%s; starting it again in %g s", error, retry_s)
            time.sleep(retry_s)
            retry_s = min(2 * retry_s, _LONGEST_RETRY_S)


def _due_refs(batch: Batch) -> list[FrameRef]:
    return [ref for ref, due in zip(batch.refs, batch.due, strict=True) if due]


@contextlib.contextmanager
def _interrupt_blocked() -> Iterator[None]:
    """Block SIGINT in this thread, and so in a child started here (the mask is inherited)."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
