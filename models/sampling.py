"""Nucleus sampling as a processor of the search core."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["NucleusSampling"]


class NucleusSampling:
    """Processor: leaves one word a row, drawn from the likeliest words that hold ``top_p``.

    Holtzman et al. 2020, The Curious Case of Neural Text Degeneration. A search of beam size 1
    over N x ``samples`` rows, clip-major, then draws that many captions of each clip, and the word
    keeps its own log-probability. The noise of a sample is the same for every clip, so that a clip
    is told alike alone and in a batch; with the seed it fixes what is drawn.
    """

    def __init__(self, top_p: float, temperature: float, samples: int, seed: int) -> None:
        if not 0 < top_p <= 1 or temperature <= 0 or samples < 1:
            raise ValueError("top_p lies in (0, 1], temperature above 0, samples are 1 or more")
        self._top_p, self._temperature = top_p, temperature
        self._samples, self._seed = samples, seed

    def __call__(self, log_probs: Tensor, history: Tensor) -> Tensor:
        """Set all but one word of (N * samples, V) to -inf."""
        scaled = (log_probs / self._temperature).log_softmax(-1)
        ordered, words = scaled.sort(-1, descending=True)
        mass_before = ordered.exp().cumsum(-1) - ordered.exp()
        ordered = ordered.masked_fill(mass_before >= self._top_p, float("-inf"))
        nucleus = torch.empty_like(scaled).scatter_(-1, words, ordered)
        noise = self._noise(history.shape[1], log_probs.shape[-1]).to(log_probs.device)
        drawn = (nucleus + noise.repeat(len(log_probs) // self._samples, 1)).argmax(-1, True)
        only = torch.full_like(log_probs, float("-inf"))
        return only.scatter_(-1, drawn, log_probs.gather(-1, drawn))

    def _noise(self, step: int, words: int) -> Tensor:
        """Gumbel noise (samples, V): the largest of log p + noise is a draw from p."""
        random = torch.Generator().manual_seed(self._seed * 4096 + step)
        uniform = torch.rand((self._samples, words), generator=random, dtype=torch.float64)
        return -(-uniform.clamp_min(1e-300).log()).log().float()
