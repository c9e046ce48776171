"""Whether a camera sees: frozen, black, covered or defocused, judged on the pictures.

Pure numbers; the pictures are measured in :func:`pipeline.pictures.measure`. Limits come in pairs,
one to become blind and a milder one to see again (hysteresis), and each must hold for a time
(debounce), so that a passing lorry or a flash makes no event. They are calibrated with
``python -m benchmarks.blindness``, whose result stands in ``benchmarks/RESULTS.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

__all__ = ["Blindness", "PictureMeasures", "Sight", "SightJudge", "blindness_of"]


class Blindness(str, Enum):
    """Why a camera sees nothing."""

    FROZEN = "frozen"
    BLACK = "black"
    COVERED = "covered"
    DEFOCUSED = "defocused"

    @property
    def sentence(self) -> str:
        """What to tell a person."""
        return _SENTENCES[self]


_SENTENCES = {
    Blindness.FROZEN: "frozen: the picture does not change at all",
    Blindness.BLACK: "black: there is nothing but darkness in the picture",
    Blindness.COVERED: "covered: the picture is one even surface",
    Blindness.DEFOCUSED: "defocused: the picture holds no sharp detail",
}


@dataclass(frozen=True, slots=True)
class PictureMeasures:
    """One picture in numbers, of its grey levels 0..255 outside privacy masks.

    ``brightest`` is the 98th percentile, ``spread`` the standard deviation. ``blur`` is the
    no-reference measure of Crete et al. (2007), 0 sharp to 1: how little a picture changes when it
    is blurred once more. ``detail`` is the Laplacian's deviation over the picture's own.
    ``change`` is the mean absolute difference from the picture before, None for the first.
    """

    brightest: float
    spread: float
    blur: float
    detail: float
    change: float | None


@dataclass(frozen=True, slots=True)
class _Limits:
    brightest: float
    spread: float
    blur: float
    detail: float
    change: float


_ENTER = _Limits(brightest=40.0, spread=8.0, blur=0.68, detail=0.04, change=0.02)
_LEAVE = _Limits(brightest=55.0, spread=10.5, blur=0.64, detail=0.05, change=0.05)


def blindness_of(picture: PictureMeasures, blind_now: bool = False) -> Blindness | None:
    """Why nothing can be seen in this picture, or None; one that is blind must improve clearly."""
    limits = _LEAVE if blind_now else _ENTER
    if picture.brightest < limits.brightest:
        return Blindness.BLACK
    if picture.spread < limits.spread:
        return Blindness.COVERED
    if picture.blur > limits.blur or picture.detail < limits.detail:
        return Blindness.DEFOCUSED
    if picture.change is not None and picture.change < limits.change:
        return Blindness.FROZEN
    return None


@dataclass(frozen=True, slots=True)
class Sight:
    """A verdict: ``blind`` says why, or is None; ``since`` is the first picture that showed it."""

    blind: Blindness | None
    since: datetime


class SightJudge:
    """Judges one camera's pictures in their order.

    Args:
        blind_after_s: How long every picture must be blind before the camera is.
        frozen_after_s: The same for a picture that stands still; longer, since a quiet scene
            repeats itself exactly between two key frames.
        sighted_after_s: How long every picture must be clear before the camera sees again.

    """

    def __init__(
        self, blind_after_s: float, frozen_after_s: float, sighted_after_s: float = 3.0
    ) -> None:
        self._blind_after_s = blind_after_s
        self._frozen_after_s = frozen_after_s
        self._sighted_after_s = sighted_after_s
        self._shown: Blindness | None = None
        self._shown_s: float | None = None
        self._shown_at: datetime | None = None
        self._last_s = 0.0
        self.verdict: Sight | None = None

    def look(self, picture: PictureMeasures, time_s: float, captured_at: datetime) -> None:
        """Take in one picture; ``time_s`` is on the camera's own steady clock."""
        blind_now = self.verdict is not None and self.verdict.blind is not None
        shows = blindness_of(picture, blind_now)
        began_anew = self._shown_s is None or time_s < self._last_s
        if began_anew or shows is not self._shown:
            self._shown, self._shown_s, self._shown_at = shows, time_s, captured_at
        self._last_s = time_s
        assert self._shown_s is not None and self._shown_at is not None
        settled = time_s - self._shown_s >= self._patience_s(shows)
        if settled and (self.verdict is None or self.verdict.blind is not shows):
            self.verdict = Sight(shows, self._shown_at)

    def _patience_s(self, shows: Blindness | None) -> float:
        if shows is None:
            return self._sighted_after_s
        return self._frozen_after_s if shows is Blindness.FROZEN else self._blind_after_s
