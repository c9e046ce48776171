"""The training loop: cross-entropy, then self-critical; resumes where a kill left it."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from models.captioner import Captioner
from models.checkpoint import save_checkpoint
from models.decoders import Decoder, DecoderConfig
from models.encoders import Encoder, build_encoder, load_imagenet_weights
from models.fusion import Memory
from models.training.concepts import ConceptLabels, concept_loss, concept_words
from models.training.data import TrainingBatch, batches, caption_tensor, maps_of
from models.training.features import CacheSettings, FeatureCache
from models.training.losses import CiderReward, cross_entropy, self_critical_loss
from models.training.sources import Sample
from models.training.tuning import plain_state, tune
from models.training.variational import kl_weight, variational_loss
from models.vocabulary import END, Vocabulary
from models.wording import neutral

__all__ = ["CaptionerTraining", "Trainer", "TrainingConfig"]

log = logging.getLogger(__name__)
_VALIDATION_PICTURES = 400


@dataclass(frozen=True)
class TrainingConfig:
    """What ``configs/train/*.yaml`` holds."""

    encoder: str
    input_size: int
    frames_per_clip: int
    min_word_count: int
    seed: int
    batch_clips: int
    epochs: int
    learning_rate: float
    label_smoothing: float
    self_critical_epochs: int
    self_critical_learning_rate: float
    frozen_stages: int = 6
    views: int = 4
    encoder_learning_rate: float = 1e-4
    attention: str = "dot"
    cell: str = "lstm"
    gate: bool = True
    latent_size: int = 0
    kl_annealing_epochs: float = 4.0
    kl_weight: float = 1.0
    encoder_tuning: str = "full"
    lora_rank: int = 8
    concept_min_count: int = 30
    concept_loss_weight: float = 0.1
    hazard_weight: float = 5.0
    average_decay: float = 0.998
    repeats: Mapping[str, int] = field(default_factory=dict)
    """How often an epoch shows a data set, by its name; once where it is not named."""
    validate_on: str = "flickr8k"

    @property
    def cache(self) -> CacheSettings:
        """What the feature cache depends on."""
        return CacheSettings(
            self.encoder, self.frozen_stages, self.input_size, self.frames_per_clip, self.views
        )


class CaptionerTraining(nn.Module):
    """What is trained, as one module: the encoder's upper stages and the decoder."""

    def __init__(self, encoder: Encoder, decoder: Decoder, frozen_stages: int) -> None:
        super().__init__()
        self.upper = nn.ModuleList(encoder.stages()[frozen_stages:])
        self.decoder = decoder

    def memory(self, maps: Tensor, mask: Tensor) -> Memory:
        """Memory of clips from their cached maps (N, T, C, H, W)."""
        return self.decoder.memory(self.regions(maps), mask)

    def regions(self, maps: Tensor) -> Tensor:
        """Features (N, T, R, D) of cached maps."""
        flat = maps.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        for stage in self.upper:
            flat = stage(flat)
        regions = flat.flatten(2).transpose(1, 2)
        return regions.view(*maps.shape[:2], *regions.shape[1:])

    def train(self, mode: bool = True) -> CaptionerTraining:
        """Train the decoder; the encoder keeps the statistics of its normalisation (frozen BN)."""
        super().train(mode)
        self.upper.eval()
        return self


class Trainer:
    """Trains decoder, concept head and upper encoder over the frozen lower encoder's cached maps.

    Every epoch begins by seeding all randomness from (seed, epoch), so an epoch that a kill cut
    off is repeated exactly, and a resumed run equals an unbroken one. Validation and checkpoints
    use an exponential moving average of the weights.
    """

    def __init__(
        self, config: TrainingConfig, samples: list[Sample], cache: FeatureCache, folder: Path
    ) -> None:
        self.config = config
        self.cache = cache
        self.folder = folder
        self.train = [_neutral(sample) for sample in samples if sample.split == "train"]
        validation = [s for s in samples if s.split == "val" and s.data_set == config.validate_on]
        self.validation = validation[:_VALIDATION_PICTURES]
        captions = [c for s in self.train if not s.clip for c in s.captions]
        self.vocabulary = _vocabulary(self.train, config.min_word_count)
        self.labels = ConceptLabels(
            concept_words(captions, config.concept_min_count), config.hazard_weight
        )
        torch.manual_seed(config.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder = self._encoder()
        self.model = CaptionerTraining(self.encoder, self._decoder(), config.frozen_stages).to(
            self.device
        )
        tune(self.model.upper, config.encoder_tuning, config.lora_rank)
        self.model.to(self.device)
        self.average = AveragedModel(
            self.model,
            multi_avg_fn=get_ema_multi_avg_fn(config.average_decay),  # type: ignore[no-untyped-call]
        )
        self.optimizer = self._optimizer()
        self.epoch = 0
        self.progress = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Train from where the folder's state stands to the last epoch, then save."""
        self._resume()
        writer = SummaryWriter(str(self.folder / "tensorboard"))
        total = self.config.epochs + self.config.self_critical_epochs
        while self.epoch < total:
            self_critical = self.epoch >= self.config.epochs
            mean = self._epoch(self_critical)
            writer.add_scalar("reward" if self_critical else "train/loss", mean, self.epoch)
            loss = self.validate()
            writer.add_scalar("val/loss", loss, self.epoch)
            log.info("epoch %d: train %.3f, validation loss %.3f", self.epoch, mean, loss)
            self.epoch += 1
            self._save_state()
            self.export(self.folder / "checkpoint")
        writer.close()

    def export(self, folder: Path) -> None:
        """Write a checkpoint of the averaged weights."""
        averaged = self._averaged()
        encoder = self._encoder()
        ours = encoder.stages()[self.config.frozen_stages :]
        nn.ModuleList(ours).load_state_dict(plain_state(averaged.upper))
        save_checkpoint(
            folder,
            Captioner(
                encoder,
                averaged.decoder,
                self.vocabulary,
                self.config.input_size,
                self.labels.words,
            ),
        )

    @torch.no_grad()
    def validate(self) -> float:
        """Mean cross-entropy, in nats a word, on the validation pictures' captions."""
        model = self._averaged()
        model.eval()
        total = 0.0
        chunks = [self.validation[i : i + 50] for i in range(0, len(self.validation), 50)]
        for chunk in chunks:
            maps = maps_of(chunk, self.cache, [0] * len(chunk)).to(self.device)
            tokens = caption_tensor([s.captions for s in chunk], self.vocabulary)
            mask = torch.ones(maps.shape[:2], dtype=torch.bool, device=self.device)
            tokens = tokens.to(self.device)
            logits, _ = model.decoder(model.memory(maps, mask), tokens)
            total += float(cross_entropy(logits, tokens, 0.0))
        return total / max(1, len(chunks))

    def _averaged(self) -> CaptionerTraining:
        module = self.average.module
        assert isinstance(module, CaptionerTraining)
        return module

    def _encoder(self) -> Encoder:
        encoder = build_encoder(self.config.encoder)
        load_imagenet_weights(encoder)
        return encoder

    def _decoder(self) -> Decoder:
        config = DecoderConfig(
            len(self.vocabulary),
            self.encoder.feature_size,
            attention=self.config.attention,
            cell=self.config.cell,
            gate=self.config.gate,
            latent_size=self.config.latent_size,
            concept_count=len(self.labels.words),
        )
        return Decoder(config)

    def _optimizer(self) -> torch.optim.Optimizer:
        rates = {self.model.decoder: 1.0, self.model.upper: self._encoder_share()}
        groups = [
            {"params": [p for p in module.parameters() if p.requires_grad], "share": share}
            for module, share in rates.items()
        ]
        return torch.optim.AdamW(groups, lr=self.config.learning_rate, weight_decay=1e-2)

    def _encoder_share(self) -> float:
        return self.config.encoder_learning_rate / self.config.learning_rate

    def _epoch(self, self_critical: bool) -> float:
        config = self.config
        seed = config.seed * 1000 + self.epoch
        torch.manual_seed(seed)
        repeated = [
            sample for sample in self.train for _ in range(config.repeats.get(sample.data_set, 1))
        ]
        order = random.Random(seed)
        reward = self._reward() if self_critical else None
        self.model.train()
        total, count = 0.0, 0
        planned = len(repeated) // config.batch_clips
        progress = tqdm(
            batches(repeated, self.cache, self.vocabulary, config.batch_clips, order),
            desc=f"epoch {self.epoch}",
            total=planned,
            mininterval=10,
        )
        for batch in progress:
            self.progress = self.epoch + count / max(1, planned)
            self._set_learning_rate(count / max(1, planned))
            value = self._step(batch, reward)
            total, count = total + value, count + 1
            if count % 50 == 0:
                progress.set_postfix(mean=f"{total / count:.3f}")
        return total / max(1, count)

    def _step(self, batch: TrainingBatch, reward: CiderReward | None) -> float:
        maps, mask = batch.maps.to(self.device), batch.mask.to(self.device)
        if reward is not None:
            return self._self_critical_step(maps, mask, batch, reward)
        memory = self.model.memory(maps, mask)
        target, weight = self.labels(batch.samples)
        concepts = concept_loss(memory.concepts, target.to(self.device), weight.to(self.device))
        tokens = batch.tokens.to(self.device)
        captions = self._caption_loss(memory, tokens)
        self._update(captions + self.config.concept_loss_weight * concepts)
        return float(captions.detach())

    def _caption_loss(self, memory: Memory, tokens: Tensor) -> Tensor:
        """Cross-entropy in nats a word; with a latent, the evidence bound."""
        config, decoder = self.config, self.model.decoder
        with self._fast():
            if decoder.latent is not None:
                weight = kl_weight(self.progress, config.kl_annealing_epochs, config.kl_weight)
                return variational_loss(decoder, memory, tokens, config.label_smoothing, weight)[0]
            logits, _ = decoder(memory, tokens)
        return cross_entropy(logits.float(), tokens, config.label_smoothing)

    def _self_critical_step(
        self, maps: Tensor, mask: Tensor, batch: TrainingBatch, reward: CiderReward
    ) -> float:
        """Only the decoder learns from rewards: what the encoder sees is not theirs to bend."""
        references = [[self._tokens(c) for c in s.captions] for s in batch.samples]
        with torch.no_grad():
            regions = self.model.regions(maps)
        with self._fast():
            memory = self.model.decoder.memory(regions, mask)
            loss, value = self_critical_loss(self.model.decoder, memory, references, reward)
        self._update(loss)
        return value

    def _fast(self) -> torch.autocast:
        """Matrix products in bfloat16 where the hardware has them; sums stay in float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=_has_fast_bfloat16())

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
        self.optimizer.step()
        self.average.update_parameters(self.model)

    def _set_learning_rate(self, within: float) -> None:
        """Linear decay to a twentieth over the cross-entropy epochs; constant afterwards."""
        config = self.config
        if self.epoch >= config.epochs:
            rate = config.self_critical_learning_rate
        else:
            rate = config.learning_rate * (1 - 0.95 * (self.epoch + within) / config.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]

    def _reward(self) -> CiderReward:
        return CiderReward([[self._tokens(c) for c in s.captions] for s in self.train])

    def _tokens(self, caption: str) -> tuple[int, ...]:
        return (*self.vocabulary.encode(caption), END)

    def _save_state(self) -> None:
        state: dict[str, Any] = {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = self.folder / "state.pt.tmp"
        torch.save(state, temporary)
        temporary.replace(self.folder / "state.pt")

    def _resume(self) -> None:
        file = self.folder / "state.pt"
        if not file.is_file():
            return
        state = torch.load(file, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = int(state["epoch"])
        log.info("resumed before epoch %d", self.epoch)


def _neutral(sample: Sample) -> Sample:
    return replace(sample, captions=tuple(neutral(caption) for caption in sample.captions))


def _has_fast_bfloat16() -> bool:
    """Whether matrix products in bfloat16 are worth it: on CUDA, and on a CPU with AMX tiles."""
    return torch.cuda.is_available() or torch.cpu._is_amx_tile_supported()


def _vocabulary(samples: list[Sample], min_count: int) -> Vocabulary:
    """Words by count; a word of a set with labelled hazards is kept when it occurs twice."""
    labelled = [c for s in samples if s.hazards is not None and not s.clip for c in s.captions]
    rare = Vocabulary.build(labelled, 2)
    return Vocabulary.build([c for s in samples for c in s.captions], min_count, rare.words[4:])
