"""Words and their numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

__all__ = ["BEGIN", "END", "PAD", "UNKNOWN", "Vocabulary", "tokenize"]

PAD, BEGIN, END, UNKNOWN = 0, 1, 2, 3
_SPECIAL = ("<pad>", "<begin>", "<end>", "<unknown>")
_WORD = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*")


def tokenize(text: str) -> list[str]:
    """Lower-case words of a sentence, without punctuation."""
    return _WORD.findall(text.lower())


class Vocabulary:
    """A fixed list of words; the first four are pad, begin, end and unknown."""

    def __init__(self, words: Sequence[str]) -> None:
        if tuple(words[:4]) != _SPECIAL:
            raise ValueError("a vocabulary begins with <pad>, <begin>, <end> and <unknown>")
        self.words = tuple(words)
        self._index = {word: index for index, word in enumerate(self.words)}
        if len(self._index) != len(self.words):
            raise ValueError("a word stands twice in the vocabulary")

    @classmethod
    def build(
        cls, sentences: Iterable[str], min_count: int, always: Iterable[str] = ()
    ) -> Vocabulary:
        """Keep words seen at least ``min_count`` times and ``always``, most frequent first."""
        counts = Counter(word for sentence in sentences for word in tokenize(sentence))
        kept = {word for word, count in counts.items() if count >= min_count} | set(always)
        return cls([*_SPECIAL, *sorted(kept, key=lambda word: (-counts[word], word))])

    @property
    def said(self) -> tuple[str, ...]:
        """The words that a caption may hold: all but the first four."""
        return self.words[len(_SPECIAL) :]

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._index

    def encode(self, text: str) -> list[int]:
        """Numbers of a sentence's words, without begin and end."""
        return [self._index.get(word, UNKNOWN) for word in tokenize(text)]

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the sentence of these numbers."""
        return " ".join(self.words[token] for token in tokens)
