"""The loss of a decoder with a latent: reconstruction, and the price of knowing the caption."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from models.decoders import Decoder
from models.fusion import Memory
from models.training.losses import cross_entropy
from models.vocabulary import PAD

__all__ = ["kl_weight", "variational_loss"]


def variational_loss(
    decoder: Decoder, memory: Memory, tokens: Tensor, smoothing: float, weight: float
) -> tuple[Tensor, Tensor]:
    """Negative evidence lower bound, in nats a word (Kingma and Welling 2014; Sohn et al. 2015).

    The latent of each caption is drawn from its posterior, so that the decoder learns what the
    latent says of it.

    Args:
        decoder: With a latent.
        memory: Of N clips.
        tokens: (N, K, L) with begin and end.
        smoothing: Label smoothing of the reconstruction.
        weight: How much the divergence counts (:func:`kl_weight`).

    Returns:
        The loss, and the divergence from posterior to prior in nats a caption.

    """
    assert decoder.latent is not None
    real = tokens != PAD
    posterior = decoder.latent.posterior(memory.pooled, decoder.words(tokens), real.sum(-1))
    prior = decoder.latent.prior(memory.pooled.unsqueeze(1))
    each = decoder.with_latents(memory, posterior.rsample())
    logits, _ = decoder(each, tokens.flatten(0, 1).unsqueeze(1))
    divergence = kl_divergence(posterior, prior).sum(-1)
    words = real[:, :, 1:].sum()
    reconstruction = cross_entropy(logits.float(), tokens.view(-1, 1, tokens.shape[-1]), smoothing)
    loss = reconstruction + weight * divergence.sum() / words
    return loss, torch.mean(divergence.detach())


def kl_weight(epoch: float, annealing_epochs: float, final: float) -> float:
    """Rise from 0 to ``final``, linearly over the first epochs (Bowman et al. 2016, section 3.1).

    Without it the divergence is cheapest at zero from the first step, and the latent says nothing.
    """
    if annealing_epochs <= 0:
        return final
    return final * min(1.0, epoch / annealing_epochs)
