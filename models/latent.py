"""A latent for each caption: the conditional variational language model.

Bowman et al. 2016, Generating Sentences from a Continuous Space, with a prior that sees the clip
(Sohn et al. 2015; for captions Wang et al. 2017, Diverse and Accurate Image Description Using a
Variational Auto-Encoder). What a clip does not decide, which of the many true things is said and
how, is left to the latent: to draw it is to draw another caption.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

__all__ = ["CaptionLatent"]

_READER_SIZE = 128


class CaptionLatent(nn.Module):
    """Prior p(z | clip), posterior q(z | clip, caption), and what z adds to every word read."""

    def __init__(self, value_size: int, word_size: int, latent_size: int) -> None:
        super().__init__()
        self.size = latent_size
        self.prior_net = nn.Sequential(
            nn.Linear(value_size, _READER_SIZE), nn.Tanh(), nn.Linear(_READER_SIZE, 2 * latent_size)
        )
        self.reader = nn.GRU(word_size, _READER_SIZE, batch_first=True, bidirectional=True)
        self.posterior_net = nn.Linear(2 * _READER_SIZE + value_size, 2 * latent_size)
        self.word = nn.Linear(latent_size, word_size, bias=False)

    def prior(self, pooled: Tensor) -> Normal:
        """Distribution of a clip's latents, (N, Z), from its pooled values (N, C)."""
        return _normal(self.prior_net(pooled))

    def posterior(self, pooled: Tensor, words: Tensor, lengths: Tensor) -> Normal:
        """Distribution (N, K, Z) of the latents of captions that are known.

        Args:
            pooled: (N, C).
            words: Embedded words of the captions, (N, K, L, E).
            lengths: How many of the L words are real, (N, K), 1 or more.

        """
        count, captions, _, _ = words.shape
        packed = pack_padded_sequence(
            words.flatten(0, 1), lengths.flatten().cpu(), batch_first=True, enforce_sorted=False
        )
        _, last = self.reader(packed)
        read = last.transpose(0, 1).flatten(1).view(count, captions, -1)
        seen = pooled.unsqueeze(1).expand(-1, captions, -1)
        return _normal(self.posterior_net(torch.cat((read, seen), -1)))

    def draw(self, pooled: Tensor, samples: int, seed: int) -> Tensor:
        """Draw latents (N, samples, Z) from the prior.

        A sample's noise is the same for every clip, so that a batch equals its clips one by one.
        """
        random = torch.Generator().manual_seed(seed)
        noise = torch.randn((samples, self.size), generator=random).to(pooled.device)
        prior = self.prior(pooled)
        return prior.mean.unsqueeze(1) + prior.stddev.unsqueeze(1) * noise


def _normal(parameters: Tensor) -> Normal:
    mean, spread = parameters.float().chunk(2, -1)
    return Normal(mean, F.softplus(spread) + 1e-3, validate_args=False)
