"""One step of training: losses, gradients, the weights and their average.

A step takes tensors, so that it can be recorded on CUDA (:mod:`models.training.graphed`); which
batch it is, and in which phase, is the loop's affair (:mod:`models.training.loop`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from models.fusion import Memory
from models.training.concepts import concept_loss
from models.training.config import TrainingConfig
from models.training.data import TrainingBatch
from models.training.graphed import Graphed
from models.training.losses import CiderReward, cross_entropy, own_words, self_critical_loss
from models.training.parallel import Processes
from models.training.teachers import Teachers, distillation_loss
from models.training.trained import CaptionerTraining
from models.training.variational import kl_weight, variational_loss

__all__ = ["Steps", "Targets", "has_fast_bfloat16"]

_LARGEST_GRADIENT = 2.0


@dataclass(frozen=True)
class Targets:
    """What a batch of N clips is to be told by, besides its captions.

    ``concepts`` (N, W) and their ``weights`` (N, W); ``told`` (N, H) are the hazards that the
    decoder goes by where ``is_told`` (N, 1): out of fold, where the read-out knows the scene.
    """

    concepts: Tensor
    weights: Tensor
    told: Tensor
    is_told: Tensor

    def to(self, device: torch.device) -> Targets:
        """Copy to a device."""
        parts = (self.concepts, self.weights, self.told, self.is_told)
        return Targets(*(part.to(device) for part in parts))


class Steps:
    """Steps of one model, with its optimizer and a moving average of its weights.

    Attributes:
        progress: Epochs passed, with the part of this one; schedules inside the losses go by it.
        divergences: Of a latent from its prior, in nats a caption, since the loop last cleared it.

    """

    def __init__(
        self,
        config: TrainingConfig,
        model: CaptionerTraining,
        average: CaptionerTraining,
        processes: Processes,
        teachers: Teachers | None,
    ) -> None:
        self._config, self._model, self._average = config, model, average
        self._processes, self._teachers = processes, teachers
        self._device = next(model.decoder.parameters()).device
        self.progress = 0.0
        self.divergences: list[Tensor] = []
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget the optimizer's moments: they were of other weights."""
        config, on_cuda = self._config, self._device.type == "cuda"
        shares = {
            self._model.decoder: 1.0,
            self._model.upper: config.encoder_learning_rate / config.learning_rate,
        }
        groups = [
            {
                "params": [p for p in module.parameters() if p.requires_grad],
                "share": share,
                "lr": torch.tensor(0.0, device=self._device) if on_cuda else 0.0,
            }
            for module, share in shares.items()
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=1e-2, capturable=on_cuda)
        self._joint = Graphed(self._joint_update, self._device, self._can_be_recorded)

    def set_learning_rate(self, rate: float) -> None:
        """Set the decoder's; the upper encoder has its share of it."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * group["share"])  # a recorded step reads it in its place
            else:
                group["lr"] = rate * group["share"]

    def joint(self, batch: TrainingBatch, targets: Targets) -> Tensor:
        """Everything learns; returns the loss of captions."""
        parts = (targets.concepts, targets.weights, targets.told, targets.is_told)
        return self._joint(batch.maps, batch.mask, batch.tokens, *parts)

    def decoder(self, batch: TrainingBatch, targets: Targets) -> Tensor:
        """Decoder and concepts learn; returns the loss of captions."""
        features, mask, memory, targets = self._seen(batch, targets)
        captions = self._caption_loss(memory, batch.tokens.to(self._device))
        self._update(captions + self._concept_loss(features, mask, targets))
        return captions.detach()

    def self_critical(
        self,
        batch: TrainingBatch,
        targets: Targets,
        references: Sequence[Sequence[tuple[int, ...]]],
        reward: CiderReward,
    ) -> Tensor:
        """Let the decoder learn from rewards: what the encoder sees is not theirs to bend.

        Returns:
            The mean reward of its samples.

        """
        _, _, memory, _ = self._seen(batch, targets)
        with self._fast():
            loss, value = self_critical_loss(self._model.decoder, memory, references, reward)
        if share := self._config.self_critical_words:
            words = self._caption_loss(memory, batch.tokens.to(self._device))
            loss = (1 - share) * loss + share * words
        self._update(loss)
        return torch.tensor(value, device=self._device)

    @property
    def _can_be_recorded(self) -> bool:
        """Whether a joint step is the same work each time, with nothing that changes by itself."""
        config = self._config
        return not (config.scheduled_sampling or config.latent_size or self._processes.count > 1)

    def _joint_update(self, maps: Tensor, mask: Tensor, tokens: Tensor, *parts: Tensor) -> Tensor:
        targets = Targets(*parts)
        with self._fast():
            features = self._model.features(maps).float()
        hazards = self._hazards(features, mask, targets)
        memory = self._model.decoder.memory(features, mask, hazards)
        taught = None
        if self._teachers is not None:
            with self._fast():
                taught = self._teachers(maps, mask, tokens, hazards)
        captions = self._caption_loss(memory, tokens, taught)
        self._update(captions + self._concept_loss(features, mask, targets))
        return captions.detach()

    def _seen(
        self, batch: TrainingBatch, targets: Targets
    ) -> tuple[Tensor, Tensor, Memory, Targets]:
        """Features, mask, memory and targets on the device; the encoder does not learn."""
        mask, targets = batch.mask.to(self._device), targets.to(self._device)
        with torch.no_grad():
            features = self._model.features(batch.maps.to(self._device))
        hazards = self._hazards(features, mask, targets)
        return features, mask, self._model.decoder.memory(features, mask, hazards), targets

    def _hazards(self, features: Tensor, mask: Tensor, targets: Targets) -> Tensor | None:
        """Probabilities for the decoder to go by; the read-out's own where none are told.

        What it says of scenes that it was fitted on is too good to be true; others are new to it.
        """
        if self._model.decoder.readout is None:
            return None
        with torch.no_grad():
            own = self._model.decoder.hazards(features, mask)
            return torch.where(targets.is_told, targets.told, own)

    def _concept_loss(self, features: Tensor, mask: Tensor, targets: Targets) -> Tensor:
        """Weighted loss of the noisy-OR head itself, whatever a read-out says in its place."""
        head = self._model.decoder.concepts
        assert head is not None  # hazards at least are always concepts
        said = head(self._model.decoder.seen(features), mask)
        weight = self._config.concept_loss_weight
        return weight * concept_loss(said, targets.concepts, targets.weights)

    def _caption_loss(self, memory: Memory, tokens: Tensor, taught: Tensor | None = None) -> Tensor:
        """Cross-entropy in nats a word, partly against ``taught``; with a latent, its bound."""
        config, decoder = self._config, self._model.decoder
        with self._fast():
            if decoder.latent is not None:
                weight = kl_weight(self.progress, config.kl_annealing_epochs, config.kl_weight)
                bound = variational_loss(decoder, memory, tokens, config.label_smoothing, weight)
                self.divergences.append(bound[1])
                return bound[0]
            logits, _ = decoder(memory, self._read(memory, tokens))
        loss = cross_entropy(logits.float(), tokens, config.label_smoothing)
        if taught is None:
            return loss
        return torch.lerp(loss, distillation_loss(logits, tokens, taught), config.teacher_weight)

    def _read(self, memory: Memory, tokens: Tensor) -> Tensor:
        """The words that the decoder reads: the references', or some of its own in their place."""
        config = self._config
        share = config.scheduled_sampling * min(1.0, self.progress / max(1, config.epochs))
        if not share:
            return tokens
        with torch.no_grad():
            logits, _ = self._model.decoder(memory, tokens)
        return own_words(logits, tokens, share)

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._processes.average_gradients(self._model.parameters())
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), _LARGEST_GRADIENT)
        self.optimizer.step()
        follow: Callable[[list[Tensor], list[Tensor], None], None]
        follow = get_ema_multi_avg_fn(self._config.average_decay)  # type: ignore[no-untyped-call]
        follow([*self._average.parameters()], [*self._model.parameters()], None)

    def _fast(self) -> torch.autocast:
        """Matrix products in bfloat16 where the hardware has them; sums stay in float32."""
        return torch.autocast(self._device.type, torch.bfloat16, enabled=has_fast_bfloat16())


def has_fast_bfloat16() -> bool:
    """Whether matrix products in bfloat16 are worth it: on CUDA, and on a CPU with AMX tiles."""
    return torch.cuda.is_available() or torch.cpu._is_amx_tile_supported()
