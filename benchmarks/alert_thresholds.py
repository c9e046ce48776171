"""Choose evidence thresholds and confirmation of the shipped hazard rules.

    python -m benchmarks.unseen_evidence FOLDER
    python -m benchmarks.alert_thresholds FOLDER [--false-per-hour 3] [--write configs/rules.yaml]

FOLDER holds captions with evidence and labels of what happens when. Each rule is replayed with
every confirmation of `CONFIRMATIONS` at every threshold worth trying (`rules calibrate` does the
same for one threshold). Among those within the wanted rate of false alerts the best find most
events, then raise fewest false alerts; where many thresholds do equally well the middle one of the
widest such range is taken. What is chosen is printed as it is to stand in the rules file, and with
``--write`` put there.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from benchmarks.alerts import SHIPPED_RULES
from pipeline.messages import Caption
from pipeline.rules import RuleSet, load_rules, read_captions
from pipeline.rules.calibration import Label, Point, Threshold, calibrate, read_labels
from pipeline.rules.schema import Confirm

RULES = ("fire", "smoke", "fight", "crash", "person_down")
"""Rules whose name is that of the concept they go by."""
CONFIRMATIONS = ((2, 3, 5.0), (2, 4, 6.0), (3, 4, 6.0), (3, 5, 8.0), (4, 6, 8.0), (5, 7, 10.0))
"""So many of so many captions within so many seconds; an event lasts ten."""
_HIGHEST, _STEPS = 0.999, 16


@dataclass(frozen=True, slots=True)
class Choice:
    """What a rule is to have, and how it did on the captions it was chosen on."""

    rule: str
    confirm: Confirm
    point: Point
    width: float

    @property
    def lines(self) -> tuple[str, str]:
        """The two lines of the rules file."""
        value, confirm = f"{self.rule}: {self.point.value:.3g}", self.confirm
        return (
            f"    evidence: {{concepts: {{{value}}}, or_concepts: {{{value}}}}}",
            f"    confirm: {{matches: {confirm.matches}, of: {confirm.of}, "
            f"within_s: {confirm.within_s:g}, sure_probability: {confirm.sure_probability}}}",
        )


def choose(
    captions: Sequence[Caption],
    labels: Sequence[Label],
    rules: RuleSet,
    rule: str,
    false_per_hour: float,
) -> Choice | None:
    """Choose for one rule; None when nothing that keeps to the rate finds anything."""
    choices = [
        choice
        for confirm in _confirmations()
        for choice in _within(captions, labels, _confirmed(rules, rule, confirm), rule, confirm)
        if choice.point.false_per_hour <= false_per_hour and choice.point.recall > 0
    ]
    return max(choices, key=lambda c: (c.point.recall, -c.point.false, c.width), default=None)


def _confirmations() -> Iterator[Confirm]:
    for matches, of, within_s in CONFIRMATIONS:
        # Sentences by people have probability 1 and no evidence: one of them is enough.
        yield Confirm(matches=matches, of=of, within_s=within_s, sure_probability=1.0)


def _confirmed(rules: RuleSet, name: str, confirm: Confirm) -> RuleSet:
    rule = next(rule for rule in rules.rules if rule.spec.name == name)
    spec = rule.spec.model_copy(update={"confirm": confirm})
    return replace(rules, rules=(replace(rule, spec=spec),))


def _within(
    captions: Sequence[Caption],
    labels: Sequence[Label],
    rules: RuleSet,
    rule: str,
    confirm: Confirm,
) -> Iterator[Choice]:
    """Ranges of neighbouring thresholds that do equally well, each by its middle (log-odds)."""
    points = calibrate(captions, labels, rules, rule, Threshold(f"either_concepts.{rule}"), _STEPS)
    points = [point for point in points if 0 < point.value < _HIGHEST]
    first = 0
    for last, point in enumerate(points):
        after = points[last + 1] if last + 1 < len(points) else None
        if after is not None and (after.recall, after.false) == (point.recall, point.false):
            continue
        low, high = _log_odds(points[first - 1 if first else 0].value), _log_odds(point.value)
        middle = float(1 / (1 + np.exp(-(low + high) / 2)))
        yield Choice(rule, confirm, replace(point, value=middle), high - low)
        first = last + 1


def _log_odds(probability: float) -> float:
    return float(np.log(probability) - np.log1p(-probability))


def written(text: str, choice: Choice) -> str:
    """Put a choice into the text of a rules file, in place of what its rule had.

    Raises:
        ValueError: There is no such rule, or it has no keywords to put the lines before.

    """
    start = re.search(rf"^  - name: {re.escape(choice.rule)}$", text, re.MULTILINE)
    if start is None:
        raise ValueError(f"no rule {choice.rule!r} to write to")
    head, body, tail = _parted(text, start.end())
    body = re.sub(r"^    (evidence|confirm): \{.*\}\n", "", body, flags=re.MULTILINE)
    lines = "".join(f"{line}\n" for line in choice.lines)
    before = re.compile(r"^    keywords:", re.MULTILINE)
    body, found = before.subn(f"{lines}    keywords:", body, count=1)
    if not found:
        raise ValueError(f"rule {choice.rule!r} has no keywords")
    return head + body + tail


def _parted(text: str, start: int) -> tuple[str, str, str]:
    """Cut a text before and after the rule that begins at ``start``."""
    after = re.compile(r"^  - name: ", re.MULTILINE).search(text, start)
    end = len(text) if after is None else after.start()
    return text[:start], text[start:end], text[end:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=Path, help="captions and labels of benchmarks.unseen_evidence"
    )
    parser.add_argument("--rules", type=Path, default=SHIPPED_RULES)
    parser.add_argument("--only", default=",".join(RULES), help="which rules")
    parser.add_argument(
        "--false-per-hour", type=float, default=3.0, help="of each rule, of normal footage"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="a rules file to change")
    options = parser.parse_args()
    files = sorted(options.folder.glob("captions-*.jsonl"))
    captions = list(chain.from_iterable(map(read_captions, files)))
    labels = read_labels(options.folder / "labels.jsonl")
    rules = load_rules(options.rules)
    for rule in options.only.split(","):
        choice = choose(captions, labels, rules, rule, options.false_per_hour)
        if choice is None:
            print(f"# {rule}: nothing keeps to {options.false_per_hour} false alerts an hour")
            continue
        point = choice.point
        print(f"  - name: {rule}  # recall {point.recall:.2f}, {point.false} false alerts")
        print("\n".join(choice.lines))
        if options.write is not None:
            text = options.write.read_text(encoding="utf-8")
            options.write.write_text(written(text, choice), encoding="utf-8")


if __name__ == "__main__":
    main()
