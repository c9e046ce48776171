"""What the main process and its captioner child say to each other; all of it picklable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.messages import Caption, FrameRef
from pipeline.slots import SlotLayout

__all__ = ["Answer", "CaptionerOptions", "Failure", "Ready", "Request"]


@dataclass(frozen=True, slots=True)
class CaptionerOptions:
    """All a child needs to load and run a captioner.

    ``measure_batch`` lets it find the batch size that pays, at most ``max_batch_frames``, which
    takes about a second; without it ``max_batch_frames`` is taken as it is. Where nobody ``waits``
    for a caption (recordings alone) the largest that fits the memory pays most.
    """

    factory: str
    model: str
    device: str = "auto"
    runtime: str = "auto"
    beam_size: int = 3
    max_words: int = 20
    window_frames: int = 5
    concepts: tuple[str, ...] = ()
    """Words that every window is asked for, as far as the model's concept head knows them."""
    probes: tuple[str, ...] = ()
    """Sentences that every window is scored with."""
    max_batch_frames: int = 16
    measure_batch: bool = False
    waits: bool = True


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded: its square's side in pixels, its identity, and where it runs.

    ``unknown_concepts`` are the asked-for words it cannot give; all of them without a concept head.
    ``batch_frames`` is how many frames to send at most; captioning so many took ``batch_s``
    seconds when it was measured, else 0.
    """

    input_size: int
    identity: str
    device: str
    runtime: str
    unknown_concepts: tuple[str, ...] = ()
    batch_frames: int = 16
    batch_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """Frames to encode; ``due`` marks those whose window is to be captioned.

    ``layouts`` tells of cameras that are new or lie elsewhere now, ``gone`` of those to forget.
    """

    refs: tuple[FrameRef, ...]
    due: tuple[bool, ...]
    layouts: Mapping[str, SlotLayout]
    gone: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """One caption for each due frame, in the request's order.

    ``batch_limit`` is how many frames go through the model at once now, ``halvings`` how often
    want of memory has halved that since the child was started. ``encode_s`` and ``decode_s`` are
    the seconds that the two took; on a GPU the first is the time to queue the work.
    """

    captions: tuple[Caption, ...]
    batch_limit: int
    halvings: int = 0
    encode_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer: a reason for the books, a sentence for people."""

    reason: str
    message: str
