"""The training loop: cross-entropy, then self-critical; resumes where a kill left it."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from models.captioner import Captioner
from models.checkpoint import save_checkpoint
from models.concepts import HazardReadout
from models.decoders import Decoder, DecoderConfig
from models.encoders import Encoder, build_encoder, load_imagenet_weights
from models.fusion import Memory
from models.grounding import Thresholds
from models.training.concepts import (
    HAZARD_CONCEPTS,
    ConceptLabels,
    concept_loss,
    concept_words,
)
from models.training.data import TrainingBatch, batches, caption_tensor, maps_of
from models.training.features import CacheSettings, FeatureCache
from models.training.losses import CiderReward, cross_entropy, self_critical_loss
from models.training.readout import OutOfFold, choose_thresholds, fit_readout, readout_samples
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
    tuning_epochs: int = 0
    """Cross-entropy epochs of the decoder alone, after the hazard read-out has been fitted."""
    tuning_learning_rate: float = 3e-4
    readout: bool = False
    encoder_blend: float = 1.0
    """Share of the fine-tuned upper encoder in what is kept; the rest is the starting weights."""
    false_hazards: Mapping[str, float] = field(default_factory=dict)
    """By hazard, the share of pictures without it where evidence may make captions name it; one
    in a hundred where it is not named."""
    missed_hazards: Mapping[str, float] = field(default_factory=dict)
    """By hazard, the share of pictures with it where evidence may keep captions from naming it;
    one in twenty where it is not named."""
    readout_company: int = 1500
    """How many pictures without labelled hazards the read-out is fitted on beside the others."""
    repeats: Mapping[str, int] = field(default_factory=dict)
    """How often an epoch shows a data set, by its name; once where it is not named."""
    validate_on: str = "flickr8k"

    @property
    def cache(self) -> CacheSettings:
        """What the feature cache depends on."""
        return CacheSettings(
            self.encoder, self.frozen_stages, self.input_size, self.frames_per_clip, self.views
        )


class Phase(Enum):
    """What an epoch trains, and on what."""

    JOINT = "decoder, concepts and upper encoder, cross-entropy"
    TUNING = "decoder alone, cross-entropy, by the fitted hazard read-out"
    SELF_CRITICAL = "decoder alone, rewards"
    OVER = "nothing: the training is over"


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
        self.divergences: list[Tensor] = []
        self.out_of_fold: OutOfFold = {}
        folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Train from where the folder's state stands to the last epoch, then save."""
        self._resume()
        writer = SummaryWriter(str(self.folder / "tensorboard"))
        while (phase := self._phase()) is not Phase.OVER:
            if self.config.readout and not self.out_of_fold and phase is not Phase.JOINT:
                self._fit_readout()
            mean = self._epoch(phase)
            self_critical = phase is Phase.SELF_CRITICAL
            writer.add_scalar("reward" if self_critical else "train/loss", mean, self.epoch)
            if self.divergences:  # near zero, the latent says nothing
                nats = float(torch.stack(self.divergences).mean())
                writer.add_scalar("train/latent_nats_a_caption", nats, self.epoch)
                self.divergences.clear()
            loss = self.validate()
            writer.add_scalar("val/loss", loss, self.epoch)
            log.info("epoch %d: train %.3f, validation loss %.3f", self.epoch, mean, loss)
            self.epoch += 1
            self._save_state()
            self.export(self.folder / "checkpoint")
        if self.config.readout and not self.out_of_fold:
            self._fit_readout()
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
                self._thresholds(),
            ),
        )

    def _thresholds(self) -> dict[str, Thresholds]:
        config = self.config
        return choose_thresholds(
            self.train, self.out_of_fold, config.false_hazards, config.missed_hazards
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

    def _phase(self) -> Phase:
        config = self.config
        for phase, epochs in (
            (Phase.JOINT, config.epochs),
            (Phase.TUNING, config.epochs + config.tuning_epochs),
            (
                Phase.SELF_CRITICAL,
                config.epochs + config.tuning_epochs + config.self_critical_epochs,
            ),
        ):
            if self.epoch < epochs:
                return phase
        return Phase.OVER

    def _fit_readout(self) -> None:
        """Fit on the features of the averaged encoder, blended with the one it started from.

        What lies between the two knows less of the training scenes and more of new ones (Wortsman
        et al. 2022, Robust fine-tuning of zero-shot models). It is used from here on.
        """
        averaged = self._averaged().eval()
        start = nn.ModuleList(self._encoder().stages()[self.config.frozen_stages :])
        share = self.config.encoder_blend
        with torch.no_grad():
            tuned = dict(averaged.upper.named_parameters())  # low-rank additions have other names
            for name, theirs in start.named_parameters():
                if name in tuned:
                    tuned[name].lerp_(theirs.to(self.device), 1 - share)
        self.model.load_state_dict(averaged.state_dict())

        @torch.inference_mode()
        def regions(sample: Sample, view: int) -> Tensor:
            return averaged.regions(maps_of([sample], self.cache, [view]).to(self.device))[0]

        chosen = readout_samples(self.train, self.config.readout_company, self.config.seed)
        fitted = HazardReadout(self.encoder.feature_size, len(HAZARD_CONCEPTS))
        self.out_of_fold = fit_readout(fitted, chosen, regions)
        self._attach(fitted)
        self.optimizer = self._optimizer()  # its moments were of other weights
        log.info("read-out fitted on %d samples", len(chosen))

    def _attach(self, readout: HazardReadout) -> None:
        for decoder in (self.model.decoder, self._averaged().decoder):
            decoder.attach(
                copy.deepcopy(readout).to(self.device), conditions=self.config.tuning_epochs > 0
            )

    def _hazards(self, batch: TrainingBatch, regions: Tensor, mask: Tensor) -> Tensor | None:
        """Probabilities for the decoder to go by: out of fold where the read-out knows the scene.

        Pictures that it was not fitted on are new to it anyway.
        """
        readout = self.model.decoder.readout
        if readout is None or not self.out_of_fold:
            return None
        with torch.no_grad():
            hazards: Tensor = readout(regions, mask)
        for row, sample in enumerate(batch.samples):
            if sample.key in self.out_of_fold:
                hazards[row] = self.out_of_fold[sample.key].to(hazards)
        return hazards

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

    def _epoch(self, phase: Phase) -> float:
        config = self.config
        seed = config.seed * 1000 + self.epoch
        torch.manual_seed(seed)
        repeated = [
            sample for sample in self.train for _ in range(config.repeats.get(sample.data_set, 1))
        ]
        order = random.Random(seed)
        reward = self._reward() if phase is Phase.SELF_CRITICAL else None
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
            value = (
                self._joint_step(batch)
                if phase is Phase.JOINT
                else self._decoder_step(batch, reward)
            )
            total, count = total + value, count + 1
            if count % 50 == 0:
                progress.set_postfix(mean=f"{total / count:.3f}")
        return total / max(1, count)

    def _joint_step(self, batch: TrainingBatch) -> float:
        maps, mask = batch.maps.to(self.device), batch.mask.to(self.device)
        regions = self.model.regions(maps)
        memory = self.model.decoder.memory(regions, mask)
        captions = self._caption_loss(memory, batch)
        self._update(captions + self._concept_loss(regions, mask, batch))
        return float(captions.detach())

    def _decoder_step(self, batch: TrainingBatch, reward: CiderReward | None) -> float:
        """Decoder and concepts learn: what the encoder sees is not the rewards' to bend."""
        mask = batch.mask.to(self.device)
        with torch.no_grad():
            regions = self.model.regions(batch.maps.to(self.device))
        memory = self.model.decoder.memory(regions, mask, self._hazards(batch, regions, mask))
        if reward is None:
            captions = self._caption_loss(memory, batch)
            loss = captions + self._concept_loss(regions, mask, batch)
            value = float(captions.detach())
        else:
            references = [[self._tokens(c) for c in s.captions] for s in batch.samples]
            with self._fast():
                loss, value = self_critical_loss(self.model.decoder, memory, references, reward)
        self._update(loss)
        return value

    def _concept_loss(self, regions: Tensor, mask: Tensor, batch: TrainingBatch) -> Tensor:
        """Weighted loss of the noisy-OR head itself, whatever a read-out says in its place."""
        head = self.model.decoder.concepts
        assert head is not None  # hazards at least are always concepts
        target, weight = self.labels(batch.samples)
        loss = concept_loss(head(regions, mask), target.to(self.device), weight.to(self.device))
        return self.config.concept_loss_weight * loss

    def _caption_loss(self, memory: Memory, batch: TrainingBatch) -> Tensor:
        """Cross-entropy in nats a word; with a latent, the evidence bound."""
        tokens = batch.tokens.to(self.device)
        config, decoder = self.config, self.model.decoder
        with self._fast():
            if decoder.latent is not None:
                weight = kl_weight(self.progress, config.kl_annealing_epochs, config.kl_weight)
                bound = variational_loss(decoder, memory, tokens, config.label_smoothing, weight)
                self.divergences.append(bound[1])
                return bound[0]
            logits, _ = decoder(memory, tokens)
        return cross_entropy(logits.float(), tokens, config.label_smoothing)

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
        """Linear decay to a twentieth over the joint epochs; constant in each later phase."""
        config = self.config
        phase = self._phase()
        if phase is Phase.SELF_CRITICAL:
            rate = config.self_critical_learning_rate
        elif phase is Phase.TUNING:
            rate = config.tuning_learning_rate
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
            "out_of_fold": self.out_of_fold,
        }
        temporary = self.folder / "state.pt.tmp"
        torch.save(state, temporary)
        temporary.replace(self.folder / "state.pt")

    def _resume(self) -> None:
        file = self.folder / "state.pt"
        if not file.is_file():
            return
        state = torch.load(file, map_location=self.device, weights_only=True)
        self.out_of_fold = dict(state["out_of_fold"])
        if self.out_of_fold:
            self._attach(HazardReadout(self.encoder.feature_size, len(HAZARD_CONCEPTS)))
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
