"""The captioner child process: attaches to the cameras' slots, encodes, decodes, answers.

It names no model. The factory comes as ``"package.module:function"`` in its options, is
imported here, in the child, and so torch never enters the main process.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.batch_limit import BatchLimit, best_batch_size, most_that_fits
from pipeline.captioner_evidence import EvidenceSource, WindowEvidence
from pipeline.captioner_messages import Answer, CaptionerOptions, Failure, Ready, Request
from pipeline.messages import Alternative, Caption, Concept, FrameRef, Word
from pipeline.scuffle import SCUFFLE, probability_of
from pipeline.slots import FrameSlots

__all__ = ["Captioner", "Windows", "serve"]

log = logging.getLogger(__name__)

_BATCH_BUDGET_S = 0.5
_TRIAL_WORDS = 10
_MOST_THREADS = 8

Window = tuple[list[Any], list[float], list[bool], Any]
"""Features of frames, (R, D) each, oldest first, their times in s, which show a colour, and what
of the newest one the captioner wants to see closer, or None."""


class Hypothesis(Protocol):
    """What the model gives for a window (see :mod:`models.captioner`)."""

    text: str
    log_probability: float
    words: Sequence[Any]
    alternatives: Sequence[Any]
    finished: bool


class Captioner(Protocol):
    """What the child asks of a model; ``models.captioner.Captioner`` is one."""

    input_size: int
    identity: str
    device: Any
    runtime: str

    def encode(self, frames: NDArray[np.uint8]) -> Any:
        """Encode (N, S, S, 3) uint8 RGB into (N, R, D) features."""

    def coloured(self, frames: NDArray[np.uint8]) -> Sequence[bool]:
        """Whether each of these frames shows any colour."""

    def spot(self, frame: NDArray[np.uint8]) -> Any:
        """What it wants to see closer of a window's newest (S, S, 3) square, or None."""

    def prepare(self, windows: Sequence[Window]) -> Any:
        """Make windows, oldest frame first, ready."""

    def decode(self, windows: Any, *, beam_size: int, max_words: int) -> Sequence[Hypothesis]:
        """Caption windows, ready or not."""


class Windows:
    """The last ``length`` frames of each camera: features, time in s, colours, how things move.

    A jump back in time (a restarted file, a clock that was set) empties the camera's window, and
    so does a gap longer than ``max_gap_s``: frames that far apart are not one scene.
    """

    def __init__(self, length: int, max_gap_s: float = 5.0) -> None:
        self._length = length
        self._max_gap_s = max_gap_s
        self._frames: dict[str, deque[tuple[Any, float, bool, float | None]]] = {}

    def push(
        self,
        camera: str,
        features: Any,
        time_s: float,
        coloured: bool,
        scuffle: float | None = None,
    ) -> None:
        """Append one frame's features (R, D), whether it shows any colour, and how it moves."""
        frames = self._frames.setdefault(camera, deque(maxlen=self._length))
        if frames and not 0.0 <= time_s - frames[-1][1] <= self._max_gap_s:
            frames.clear()
        frames.append((features, time_s, coloured, scuffle))

    def window(self, camera: str, spot: Any = None) -> Window:
        """Return the camera's window, with what is to be seen closer of its newest frame."""
        features, times_s, coloured, _ = zip(*self._frames[camera], strict=True)
        return list(features), list(times_s), list(coloured), spot

    def scuffle(self, camera: str) -> float | None:
        """Probability of a scuffle by the camera's window, None where it is unknown."""
        return probability_of([scuffle for *_, scuffle in self._frames[camera]])

    def forget(self, camera: str) -> None:
        """Drop a camera's window."""
        self._frames.pop(camera, None)


class _Server:
    """Answers requests with one loaded captioner."""

    def __init__(
        self, captioner: Captioner, options: CaptionerOptions, evidence: EvidenceSource
    ) -> None:
        self._captioner = captioner
        self._options = options
        self._evidence = evidence
        self._slots: dict[str, FrameSlots] = {}
        self._windows = Windows(options.window_frames)
        self._encoding = BatchLimit(options.max_batch_frames)
        self._decoding = BatchLimit(options.max_batch_frames)

    def answer(self, request: Request) -> Answer:
        for camera in request.gone:
            self._detach(camera)
        for camera, layout in request.layouts.items():
            self._detach(camera)
            self._slots[camera] = FrameSlots.attach(layout)
        began_s = time.perf_counter()
        squares = [self._slots[r.stamp.camera].square(r.slot) for r in request.refs]
        encoded = self._encoding.run(squares, self._encode)
        encoded_s = time.perf_counter()
        windows, due, moving = [], [], []
        each = zip(request.refs, squares, encoded, request.due, strict=True)
        for ref, square, (one, coloured), is_due in each:
            camera = ref.stamp.camera
            self._windows.push(camera, one, ref.stamp.time_s, coloured, ref.scuffle)
            if is_due:
                due.append(ref)
                windows.append(self._windows.window(camera, self._captioner.spot(square)))
                moving.append(self._windows.scuffle(camera))
        found = self._decoding.run(list(zip(due, windows, strict=True)), self._caption)
        if SCUFFLE in self._options.concepts:
            found = [_moving(one, how) for one, how in zip(found, moving, strict=True)]
        return Answer(
            tuple(found),
            min(self._encoding.size, self._decoding.size),
            self._encoding.halvings + self._decoding.halvings,
            encoded_s - began_s,
            time.perf_counter() - encoded_s,
        )

    def close(self) -> None:
        for slots in self._slots.values():
            slots.close()

    def _detach(self, camera: str) -> None:
        if camera in self._slots:
            self._slots.pop(camera).close()
            self._windows.forget(camera)

    def _encode(self, squares: Sequence[NDArray[np.uint8]]) -> list[tuple[Any, bool]]:
        """Features of each frame, and whether it shows any colour."""
        frames = np.stack(squares)
        features = self._captioner.encode(frames)
        return list(zip(features, self._captioner.coloured(frames), strict=True))

    def _caption(self, part: Sequence[tuple[FrameRef, Window]]) -> list[Caption]:
        windows = self._captioner.prepare([window for _, window in part])
        hypotheses = self._captioner.decode(
            windows, beam_size=self._options.beam_size, max_words=self._options.max_words
        )
        evidence = self._evidence.of(windows)
        return [
            _to_caption(ref, hypothesis, found, self._captioner.identity)
            for (ref, _), hypothesis, found in zip(part, hypotheses, evidence, strict=True)
        ]


def _moving(caption: Caption, scuffle: float | None) -> Caption:
    """Put in how things move, where it is known; the model gives the other concepts."""
    if scuffle is None:
        return caption
    return replace(caption, concepts={**caption.concepts, SCUFFLE: Concept(scuffle)})


def _to_caption(
    ref: FrameRef, hypothesis: Hypothesis, evidence: WindowEvidence, identity: str
) -> Caption:
    return Caption(
        stamp=ref.stamp,
        text=hypothesis.text,
        log_probability=float(hypothesis.log_probability),
        words=tuple(Word(w.text, float(w.probability), w.attention) for w in hypothesis.words),
        alternatives=tuple(
            Alternative(a.text, float(a.log_probability)) for a in hypothesis.alternatives
        ),
        model=identity,
        concepts=evidence.concepts,
        scores=evidence.scores,
        finished=hypothesis.finished,
    )


def serve(pipe: Connection, options: CaptionerOptions) -> None:
    """Run the child: load, say ready, answer until None or the end of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Set before the model's libraries load. Half of the cores: the others decode video.
    os.environ.setdefault("OMP_NUM_THREADS", str(_threads()))
    _end_with_parent()
    with contextlib.suppress(BrokenPipeError):  # the main process is gone, also while we load
        _serve(pipe, options)


def _end_with_parent() -> None:
    """End at once when the main process is killed: while the model loads nobody reads the pipe."""
    parent = multiprocessing.parent_process()
    if parent is None:  # called in a thread of a test
        return

    def watch() -> None:
        parent.join()
        os._exit(1)  # nothing here needs an orderly exit: shared memory is only attached

    threading.Thread(target=watch, name="watchword-parent", daemon=True).start()


def _serve(pipe: Connection, options: CaptionerOptions) -> None:
    captioner = _load(pipe, options)
    if captioner is None:
        return
    of_model = [word for word in options.concepts if word != SCUFFLE]  # that one tells motion
    evidence = EvidenceSource(captioner, of_model, options.probes)
    ready = _ready(captioner, evidence, options)
    pipe.send(ready)
    server = _Server(captioner, replace(options, max_batch_frames=ready.batch_frames), evidence)
    try:
        _answer_all(pipe, server)
    finally:
        server.close()


def _load(pipe: Connection, options: CaptionerOptions) -> Captioner | None:
    module_name, _, function_name = options.factory.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), function_name)
        captioner = cast(
            Captioner, factory(options.model, device=options.device, runtime=options.runtime)
        )
    except Exception as error:
        log.debug("loading failed", exc_info=error)
        pipe.send(Failure("model", str(error) or type(error).__name__))
        return None
    return captioner


def _threads() -> int:
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min(_MOST_THREADS, max(1, cores // 2))


def _ready(captioner: Captioner, evidence: EvidenceSource, options: CaptionerOptions) -> Ready:
    frames, took_s = options.max_batch_frames, 0.0
    if options.measure_batch:
        trial = _trial(captioner, options)
        # On a CPU what others use of it meanwhile must not count; a GPU's work shows on the wall.
        on_cpu = str(captioner.device) == "cpu"
        clock = time.process_time if on_cpu else time.perf_counter
        if options.waits:
            frames = best_batch_size(trial, options.max_batch_frames, _BATCH_BUDGET_S, clock)
        else:
            frames = most_that_fits(trial, options.max_batch_frames)
        began_s = time.perf_counter()
        trial(frames)
        took_s = time.perf_counter() - began_s
    return Ready(
        captioner.input_size,
        captioner.identity,
        str(captioner.device),
        str(captioner.runtime),
        evidence.unknown,
        frames,
        took_s,
    )


def _trial(captioner: Captioner, options: CaptionerOptions) -> Callable[[int], object]:
    """Return what captions n windows of n frames: noise, in a few words each."""
    side = captioner.input_size
    noise = np.random.default_rng(0)

    def caption(count: int) -> object:
        frames = noise.integers(0, 256, (count, side, side, 3), np.uint8)
        length = options.window_frames
        windows = [([one] * length, [0.0] * length) for one in captioner.encode(frames)]
        return captioner.decode(windows, beam_size=options.beam_size, max_words=_TRIAL_WORDS)

    return caption


def _answer_all(pipe: Connection, server: _Server) -> None:
    while True:
        try:
            request = pipe.recv()
        except (EOFError, OSError):
            return  # the main process is gone; so is the reason to be here
        if request is None:
            return
        try:
            reply: Answer | Failure = server.answer(request)
        except Exception as error:
            log.debug("a batch failed", exc_info=error)
            reply = Failure("captioner_error", f"the captioner failed: {error}")
        pipe.send(reply)
