"""Where every frame and window of a run went: the grabbers' counts and the ledger's, joined."""

from __future__ import annotations

from collections import Counter

from pipeline.batcher import Batch
from pipeline.captioner import CaptionedFrame
from pipeline.capture import Capture
from pipeline.ledger import Ledger
from pipeline.messages import FrameRef, SourceEnd
from pipeline.outputs import CameraSummary

__all__ = ["Accounting"]


class Accounting:
    """Books what is given up between the stages, frees its slot, and sums each camera up."""

    def __init__(self, capture: Capture, ledger: Ledger) -> None:
        self._capture = capture
        self.ledger = ledger

    def drop(self, ref: FrameRef | SourceEnd, reason: str) -> None:
        """Book a delivered frame that nobody will encode."""
        if isinstance(ref, SourceEnd):
            return
        self.ledger.dropped(ref.stamp.camera, reason)
        self._capture.release(ref)

    def abandon(self, item: object) -> None:
        """Book what a run cut short leaves in a channel."""
        if isinstance(item, FrameRef):
            self.drop(item, "aborted")
        elif isinstance(item, Batch):
            for ref, due in zip(item.refs, item.due, strict=True):
                self.drop(ref, "aborted")
                if due:
                    self.ledger.window_dropped(ref.stamp.camera, "aborted")
        elif isinstance(item, CaptionedFrame):
            self._capture.release(item.ref)

    def camera(self, name: str) -> CameraSummary:
        """Sum one camera up, as it stands now."""
        account = self._capture.accounts()[name]
        books = self.ledger.books(name)
        status = self._capture.status().get(name)  # None for a camera that was removed
        return CameraSummary(
            camera=name,
            grabbed=account.grabbed,
            unsampled=account.unsampled,
            skipped=account.skipped,
            encoded=books.encoded,
            dropped=dict(Counter(account.dropped) + Counter(books.dropped)),
            failed=dict(Counter(account.failed) + Counter(books.failed)),
            windows=books.windows,
            captioned=books.captioned,
            partial=books.partial,
            windows_dropped=books.windows_dropped,
            windows_failed=books.windows_failed,
            media_s=None if status is None else status.position_s,
            error=self._capture.errors().get(name),
        )
