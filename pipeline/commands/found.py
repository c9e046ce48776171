"""Neighbouring captions that were found and say the same are one moment to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.outputs.meaning import says_the_same
from pipeline.store import Found

__all__ = ["Moment", "moments"]

_NEAR = timedelta(seconds=10)


@dataclass(slots=True)
class Moment:
    """What was found from ``first`` to ``last``: ``best`` of the ``captions`` that say the same."""

    best: Found
    first: datetime
    last: datetime
    captions: int

    def says(self, text: str) -> bool:
        """Whether a caption of this time says the same."""
        return says_the_same(self.best.text, text)


def moments(found: Sequence[Found]) -> list[Moment]:
    """Join what lies within ten seconds on one camera and says the same; the best stay first."""
    rank = {id(each): place for place, each in enumerate(found)}
    joined: list[Moment] = []
    near: dict[str, list[Moment]] = {}
    for each in sorted(found, key=lambda one: one.time):
        of_camera = [one for one in near.get(each.camera, ()) if each.time - one.last <= _NEAR]
        moment = next((one for one in of_camera if one.says(each.text)), None)
        if moment is None:
            moment = Moment(each, each.time, each.time, 0)
            joined.append(moment)
            of_camera.append(moment)
        near[each.camera] = of_camera
        moment.last, moment.captions = each.time, moment.captions + 1
        if rank[id(each)] < rank[id(moment.best)]:
            moment.best = each
    return sorted(joined, key=lambda moment: rank[id(moment.best)])
