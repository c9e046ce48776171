"""Caption scores by pycocoevalcap's own scorers, over one tokenisation for every machine."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge

from models.captioner import Hypothesis
from models.evaluation.evidence import calibration_error
from models.vocabulary import tokenize

__all__ = ["score_captions", "score_drawn", "score_variety", "word_calibration"]

log = logging.getLogger(__name__)

Texts = dict[str, list[str]]


def score_captions(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]], meteor: bool = True
) -> dict[str, float | None]:
    """BLEU-1..4, METEOR, ROUGE-L and CIDEr of captions against references, by picture key.

    Both sides are lower-cased words without punctuation, which is what COCO's tokeniser leaves
    of such sentences; so scores need no Java. METEOR does, and is None where it cannot run or is
    not wanted.

    Raises:
        ValueError: The keys of the two differ, or there are none.

    """
    if not captions or captions.keys() != references.keys():
        raise ValueError("captions and references must be of the same pictures, and not empty")
    given = {key: [_clean(text)] for key, text in captions.items()}
    wanted = {key: [_clean(text) for text in texts] for key, texts in references.items()}
    bleu, _ = Bleu(4).compute_score(wanted, given, verbose=0)
    scores: dict[str, float | None] = {f"bleu_{n}": float(bleu[n - 1]) for n in range(1, 5)}
    scores["meteor"] = _meteor(wanted, given) if meteor else None
    scores["rouge_l"] = float(Rouge().compute_score(wanted, given)[0])
    scores["cider"] = float(Cider().compute_score(wanted, given)[0])
    return scores


def score_variety(
    captions: Mapping[str, str], training_captions: Sequence[str]
) -> dict[str, float | int | None]:
    """Novelty and diversity: how much of what is said is new, and how much of it differs.

    ``novel`` is the share of captions that are no training caption (None where none are known),
    ``distinct`` that of different captions, ``words`` the number of different words used, and
    ``distinct_bigrams`` different bigrams over all bigrams.
    """
    texts = [_clean(text) for text in captions.values()]
    known = {_clean(text) for text in training_captions}
    words = [text.split() for text in texts]
    bigrams = [pair for text in words for pair in pairwise(text)]
    return {
        "novel": sum(text not in known for text in texts) / len(texts) if known else None,
        "distinct": len(set(texts)) / len(texts),
        "words": len({word for text in words for word in text}),
        "distinct_bigrams": len(set(bigrams)) / max(1, len(bigrams)),
        "mean_words": sum(map(len, words)) / len(texts),
    }


def score_drawn(
    drawn: Mapping[str, Sequence[str]], references: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Score the different captions that were drawn of each picture.

    ``captions`` is how many there are of a picture, ``distinct_bigrams`` their different bigrams
    over all their bigrams, ``cider`` their mean score and ``best_cider`` that of the best of a
    picture, which a reader with the references would choose; each a mean over pictures.
    """
    given = {
        (key, i): [_clean(text)] for key, texts in drawn.items() for i, text in enumerate(texts)
    }
    wanted = {at: [_clean(text) for text in references[at[0]]] for at in given}
    each = dict(zip(given, Cider().compute_score(wanted, given)[1], strict=True))
    totals = dict.fromkeys(("captions", "distinct_bigrams", "cider", "best_cider"), 0.0)
    for key, texts in drawn.items():
        words = [_clean(text).split() for text in texts]
        bigrams = [pair for text in words for pair in pairwise(text)]
        scores = [float(each[key, i]) for i in range(len(texts))]
        totals["captions"] += len(texts)
        totals["distinct_bigrams"] += len(set(bigrams)) / max(1, len(bigrams))
        totals["cider"] += sum(scores) / len(scores)
        totals["best_cider"] += max(scores)
    return {name: total / len(drawn) for name, total in totals.items()}


def word_calibration(
    hypotheses: Mapping[str, Hypothesis], references: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Whether a word's probability tells how often a reference uses that word.

    ``ece`` is the expected calibration error over ten bins, ``mean_probability`` what the model
    claims and ``used_by_a_reference`` what is true, over every word of every caption.
    """
    probabilities, outcomes = [], []
    for key, hypothesis in hypotheses.items():
        used = {word for text in references[key] for word in tokenize(text)}
        for word in hypothesis.words:
            probabilities.append(word.probability)
            outcomes.append(word.text in used)
    return {
        "ece": calibration_error(probabilities, outcomes),
        "mean_probability": sum(probabilities) / max(1, len(probabilities)),
        "used_by_a_reference": sum(outcomes) / max(1, len(outcomes)),
    }


def _clean(text: str) -> str:
    return " ".join(tokenize(text))


def _meteor(wanted: Texts, given: Texts) -> float | None:
    if shutil.which("java") is None:
        return None
    scorer = Meteor()
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
            return float(scorer.compute_score(wanted, given)[0])
    except BrokenPipeError:
        scorer.lock.release()  # else it waits for itself when it goes
        with contextlib.suppress(BrokenPipeError):
            scorer.meteor_p.stdin.close()
        log.warning(
            "METEOR is left out: its Java program ended at once, as it does where the path of "
            "its folder holds a space (%s)",
            Path(inspect.getfile(Meteor)).parent,
        )
        return None
