"""Cross-entropy with label smoothing, and the self-critical loss on CIDEr-D."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.decoders import Decoder, DecoderState
from models.fusion import Memory
from models.vocabulary import BEGIN, END, PAD

__all__ = ["CiderReward", "cross_entropy", "own_words", "self_critical_loss"]

Tokens = tuple[int, ...]


def cross_entropy(logits: Tensor, tokens: Tensor, smoothing: float) -> Tensor:
    """Mean over real words of logits (N, K, L - 1, V) against tokens (N, K, L)."""
    targets = tokens[:, :, 1:].reshape(-1)
    scores = logits.flatten(0, 2)
    return F.cross_entropy(scores, targets, ignore_index=PAD, label_smoothing=smoothing)


def own_words(logits: Tensor, tokens: Tensor, share: float) -> Tensor:
    """Tokens (N, K, L) with a share of the words replaced by draws from logits (N, K, L - 1, V).

    Position t of the logits is a guess of word t + 1. Begin, end and padding stay as they are.
    """
    chances = logits.detach().float().softmax(-1)
    guesses = torch.multinomial(chances.flatten(0, -2), 1).view(logits.shape[:-1])
    words = tokens[:, :, 1:]
    fixed = (words == PAD) | (words == END)
    mine = (torch.rand(words.shape, device=words.device) < share) & ~fixed
    return torch.cat((tokens[:, :, :1], torch.where(mine, guesses, words)), 2)


class CiderReward:
    """CIDEr-D of token sequences against references (Vedantam et al. 2015, section 5).

    Document frequencies come from ``corpus``, one set of references per picture.
    """

    def __init__(self, corpus: Sequence[Sequence[Tokens]], sigma: float = 6.0) -> None:
        documents: Counter[Tokens] = Counter()
        for references in corpus:
            documents.update({gram for reference in references for gram in _grams(reference)})
        self._frequency = documents
        self._log_count = math.log(len(corpus))
        self._sigma = sigma

    def __call__(self, candidate: Tokens, references: Iterable[Tokens]) -> float:
        """Score one candidate; 0 to about 10."""
        mine = self._vectors(candidate)
        scores = [self._similarity(mine, self._vectors(other)) for other in references]
        return 10.0 * sum(scores) / len(scores)

    def _vectors(self, tokens: Tokens) -> tuple[list[dict[Tokens, float]], list[float], int]:
        vectors: list[dict[Tokens, float]] = [{}, {}, {}, {}]
        for gram, count in _grams(tokens).items():
            weight = self._log_count - math.log(max(1, self._frequency[gram]))
            vectors[len(gram) - 1][gram] = count * weight
        norms = [math.sqrt(sum(v * v for v in vector.values())) for vector in vectors]
        return vectors, norms, len(tokens)

    def _similarity(
        self,
        mine: tuple[list[dict[Tokens, float]], list[float], int],
        theirs: tuple[list[dict[Tokens, float]], list[float], int],
    ) -> float:
        total = 0.0
        for a, b, norm_a, norm_b in zip(mine[0], theirs[0], mine[1], theirs[1], strict=True):
            if norm_a and norm_b:
                shared = sum(min(value, b[g]) * b[g] for g, value in a.items() if g in b)
                total += shared / (norm_a * norm_b)
        penalty = math.exp(-((mine[2] - theirs[2]) ** 2) / (2 * self._sigma**2))
        return total * penalty / 4.0


def self_critical_loss(
    decoder: Decoder,
    memory: Memory,
    references: Sequence[Sequence[Tokens]],
    reward: CiderReward,
    samples_per_clip: int = 5,
    max_words: int = 20,
) -> tuple[Tensor, float]:
    """Policy gradient on CIDEr-D (Rennie et al. 2017).

    The baseline of each sample is the mean of the clip's other samples (Luo 2020, A Better
    Variant of Self-Critical Sequence Training).

    Returns:
        The loss and the samples' mean reward.

    """
    tokens, log_probabilities = _sample(decoder, memory, samples_per_clip, max_words)
    rewards = torch.tensor(
        [
            reward(_until_end(row), references[index // samples_per_clip])
            for index, row in enumerate(tokens.tolist())
        ]
    ).view(-1, samples_per_clip)
    others = (rewards.sum(1, keepdim=True) - rewards) / (samples_per_clip - 1)
    advantage = (rewards - others).view(-1, 1).to(log_probabilities.device)
    ended = (tokens == END).cumsum(1)
    real = ((ended == 0) | ((ended == 1) & (tokens == END))).to(log_probabilities.dtype)
    loss = -(advantage * log_probabilities * real).sum() / real.sum()
    return loss, float(rewards.mean())


def _sample(
    decoder: Decoder, memory: Memory, samples_per_clip: int, max_words: int
) -> tuple[Tensor, Tensor]:
    """Multinomial samples (rows, L) and the log probability of each word, with gradients."""
    first = decoder.initial_state(memory)
    state = DecoderState(*(part.repeat_interleave(samples_per_clip, 0) for part in first))
    word = torch.full((len(state.hidden),), BEGIN, device=memory.values.device)
    done = torch.zeros_like(word, dtype=torch.bool)
    tokens: list[Tensor] = []
    chosen: list[Tensor] = []
    for _ in range(max_words + 1):
        logits, state = decoder.step(word, state, memory)
        log_probabilities = F.log_softmax(logits.float(), -1)
        word = torch.multinomial(log_probabilities.detach().exp(), 1).squeeze(1)
        word = torch.where(done, torch.full_like(word, END), word)
        chosen.append(log_probabilities.gather(1, word.unsqueeze(1)).squeeze(1))
        tokens.append(word)
        done = done | (word == END)
        if bool(done.all()):
            break
    return torch.stack(tokens, 1), torch.stack(chosen, 1)


def _until_end(tokens: Sequence[int]) -> Tokens:
    """Words up to the end, with the end: an unfinished caption must not score like a whole one."""
    words = tuple(tokens)
    return words[: words.index(END) + 1] if END in words else words


def _grams(tokens: Tokens) -> Counter[Tokens]:
    return Counter(tokens[i : i + n] for n in range(1, 5) for i in range(len(tokens) - n + 1))
