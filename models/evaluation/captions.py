"""Caption scores by pycocoevalcap's own scorers, over one tokenisation for every machine."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge

from models.vocabulary import tokenize

__all__ = ["score_captions"]

Texts = dict[str, list[str]]


def score_captions(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> dict[str, float | None]:
    """BLEU-1..4, METEOR, ROUGE-L and CIDEr of captions against references, by picture key.

    Both sides are lower-cased words without punctuation, which is what COCO's tokeniser leaves
    of such sentences; so scores need no Java. METEOR does, and is None without it.

    Raises:
        ValueError: The keys of the two differ, or there are none.

    """
    if not captions or captions.keys() != references.keys():
        raise ValueError("captions and references must be of the same pictures, and not empty")
    given = {key: [_clean(text)] for key, text in captions.items()}
    wanted = {key: [_clean(text) for text in texts] for key, texts in references.items()}
    bleu, _ = Bleu(4).compute_score(wanted, given, verbose=0)
    scores: dict[str, float | None] = {f"bleu_{n}": float(bleu[n - 1]) for n in range(1, 5)}
    scores["meteor"] = _meteor(wanted, given)
    scores["rouge_l"] = float(Rouge().compute_score(wanted, given)[0])
    scores["cider"] = float(Cider().compute_score(wanted, given)[0])
    return scores


def _clean(text: str) -> str:
    return " ".join(tokenize(text))


def _meteor(wanted: Texts, given: Texts) -> float | None:
    if shutil.which("java") is None:
        return None
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        return float(Meteor().compute_score(wanted, given)[0])
