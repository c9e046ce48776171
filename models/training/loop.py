"""The training loop: cross-entropy, then self-critical; resumes where a kill left it."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
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
from models.training.config import TrainingConfig
from models.training.data import LONGEST, Batches, MapSource, TrainingBatch, maps_of
from models.training.graphed import Graphed
from models.training.losses import CiderReward, cross_entropy, own_words, self_critical_loss
from models.training.parallel import ALONE, Processes
from models.training.readout import OutOfFold, choose_thresholds, fit_readout, readout_samples
from models.training.sources import Sample
from models.training.teachers import Teachers, distillation_loss
from models.training.tuning import plain_state, tune
from models.training.validation import Validation
from models.training.variational import kl_weight, variational_loss
from models.vocabulary import END, Vocabulary
from models.wording import neutral

__all__ = ["CaptionerTraining", "Trainer"]

log = logging.getLogger(__name__)


class Phase(Enum):
    """What an epoch trains, and on what."""

    JOINT = "decoder, concepts and upper encoder, cross-entropy"
    TUNING = "decoder alone, cross-entropy, by the fitted hazard read-out"
    SELF_CRITICAL = "decoder alone, rewards"
    OVER = "nothing: the training is over"


@dataclass(frozen=True)
class _Stretch:
    phase: Phase
    first_epoch: int
    epochs: int
    learning_rate: float


class CaptionerTraining(nn.Module):
    """What is trained, as one module: the encoder's upper stages and the decoder."""

    def __init__(self, encoder: Encoder, decoder: Decoder, frozen_stages: int) -> None:
        super().__init__()
        self.upper = nn.ModuleList(encoder.stages()[frozen_stages:])
        self.evidence = encoder.evidence
        self.decoder = decoder

    def memory(self, maps: Tensor, mask: Tensor) -> Memory:
        """Memory of clips from their maps (N, T, C, H, W)."""
        return self.decoder.memory(self.features(maps), mask)

    def regions(self, maps: Tensor) -> Tensor:
        """Features (N, T, R, D) of maps, without evidence."""
        return self._run(self.upper, maps)

    def features(self, maps: Tensor) -> Tensor:
        """Features (N, T, R, D + E) of maps, with evidence once a read-out wants it."""
        regions = self.regions(maps)
        if self.evidence is None or self.decoder.readout is None:
            return regions
        return torch.cat((regions, self.evidence_of(maps)), -1)

    def evidence_of(self, maps: Tensor) -> Tensor:
        """What the read-out reads, (N, T, R, E), or the tuned features where there is no branch."""
        if self.evidence is None:
            return self.regions(maps)
        return self._run([self.evidence], maps)

    @staticmethod
    def _run(stages: Iterable[nn.Module], maps: Tensor) -> Tensor:
        flat = maps.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        for stage in stages:
            flat = stage(flat)
        regions = flat.flatten(2).transpose(1, 2)
        return regions.reshape(*maps.shape[:2], *regions.shape[1:])

    def train(self, mode: bool = True) -> CaptionerTraining:
        """Train the decoder; the encoder keeps the statistics of its normalisation (frozen BN)."""
        super().train(mode)
        self.upper.eval()
        return self


class Trainer:
    """Trains decoder, concept head and upper encoder over the frozen lower encoder's maps.

    Every epoch begins by seeding all randomness from (seed, epoch), so an epoch that a kill cut
    off is repeated exactly, and a resumed run equals an unbroken one. Validation and checkpoints
    use an exponential moving average of the weights.
    """

    def __init__(
        self,
        config: TrainingConfig,
        samples: list[Sample],
        source: MapSource,
        folder: Path,
        processes: Processes = ALONE,
    ) -> None:
        self.config = config
        self.processes = processes
        self.source = source
        self.folder = folder
        self.train = [_neutral(s) for s in samples if s.split in config.learns_from]
        captions = [c for s in self.train if not s.clip for c in s.captions]
        spoken = [_neutral(s) for s in samples if s.split in config.words_from]
        self.vocabulary = _vocabulary(spoken, config.min_word_count)
        self.reward = CiderReward([[self._tokens(c) for c in s.captions] for s in self.train])
        held_out = [s for s in samples if s.split == "val" and s.data_set == config.validate_on]
        self.validation = Validation(held_out, source, self.vocabulary, self.reward)
        self.labels = ConceptLabels(
            concept_words(captions, config.concept_min_count), config.hazard_weight
        )
        torch.manual_seed(config.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder = self._encoder()
        self.model = CaptionerTraining(self.encoder, self._decoder(), config.frozen_stages).to(
            self.device
        )
        self.teachers: Teachers | None = None
        if config.teachers:
            checkpoints = [Path(path) for path in config.teachers]
            self.teachers = Teachers(
                checkpoints, self.vocabulary, config.frozen_stages, self.device
            )
        tune(self.model.upper, config.encoder_tuning, config.lora_rank)
        self.model.to(self.device)
        self.average = AveragedModel(self.model)
        self.optimizer = self._optimizer()
        self.epoch = 0
        self.progress = 0.0
        self.best_cider = 0.0
        self.divergences: list[Tensor] = []
        self.out_of_fold: OutOfFold = {}
        self._captions_at_length = LONGEST if self.device.type == "cuda" else None
        folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Train from where the folder's state stands to the last epoch, then save."""
        self._resume()
        writer = SummaryWriter(str(self.folder / "tensorboard")) if self.processes.leads else None
        while (phase := self._phase()) is not Phase.OVER:
            due = phase is not Phase.JOINT or self._evidence_stands
            if self.config.readout and due and not self.out_of_fold:
                self._fit_readout()
            mean = self._epoch(phase)
            if writer is not None:
                self._conclude(phase, mean, writer)
            self.epoch += 1
            if self.processes.leads:
                self._save_state()
        if self.config.readout and not self.out_of_fold:
            self._fit_readout()
            if self.processes.leads:
                self._save_state()
                for name in ("checkpoint", "best"):
                    self.export(self.folder / name)
        if writer is not None:
            writer.close()

    @property
    def _evidence_stands(self) -> bool:
        """Whether the read-out reads the starting weights, so that no epoch changes what it reads.

        It is then fitted first, and the decoder goes by it from its first word.
        """
        return self.config.evidence_branch and self.config.encoder_blend == 0

    def _conclude(self, phase: Phase, mean: float, writer: SummaryWriter) -> None:
        """Judge and keep an epoch; the best of the self-critical ones is kept beside the last."""
        rewarded = phase is Phase.SELF_CRITICAL
        found = self.validation(self._averaged())
        log.info("epoch %d: train %.3f, validation %s", self.epoch, mean, found)
        scores = {
            "reward" if rewarded else "train/loss": mean,
            "val/loss": found.loss,
            "val/cider": found.cider,
        }
        if self.divergences:  # near zero, the latent says nothing
            scores["train/latent_nats_a_caption"] = float(torch.stack(self.divergences).mean())
        for name, value in scores.items():
            writer.add_scalar(name, value, self.epoch)
        self.export(self.folder / "checkpoint")
        if not rewarded or found.cider > self.best_cider:
            self.best_cider = found.cider
            self.export(self.folder / "best")

    def export(self, folder: Path) -> None:
        """Write a checkpoint of the averaged weights."""
        averaged = self._averaged()
        encoder = self._encoder()
        ours = encoder.stages()[self.config.frozen_stages :]
        nn.ModuleList(ours).load_state_dict(plain_state(averaged.upper))
        if encoder.evidence is not None and averaged.evidence is not None:
            encoder.evidence.load_state_dict(averaged.evidence.state_dict())
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

    def _phase(self) -> Phase:
        return self._stretch().phase

    def _stretch(self) -> _Stretch:
        """The phase that the epoch belongs to, with its first epoch, length and learning rate."""
        config, first = self.config, 0
        for phase, epochs, rate in (
            (Phase.JOINT, config.epochs, config.learning_rate),
            (Phase.TUNING, config.tuning_epochs, config.tuning_learning_rate),
            (
                Phase.SELF_CRITICAL,
                config.self_critical_epochs,
                config.self_critical_learning_rate,
            ),
        ):
            if self.epoch < first + epochs:
                return _Stretch(phase, first, epochs, rate)
            first += epochs
        return _Stretch(Phase.OVER, first, 0, 0.0)

    def _fit_readout(self) -> None:
        """Fit on the features of the averaged encoder, blended with the one it started from.

        What lies between the two knows less of the training scenes and more of new ones (Wortsman
        et al. 2022, Robust fine-tuning of zero-shot models). With an evidence branch the blend is
        the branch's alone, and captions keep the tuned encoder.
        """
        averaged = self._averaged().eval()
        start = nn.ModuleList(self._encoder().stages()[self.config.frozen_stages :])
        share = self.config.encoder_blend
        branch = averaged.evidence
        with torch.no_grad():
            tuned = dict(averaged.upper.named_parameters())  # low-rank additions have other names
            blended = tuned if branch is None else dict(branch.stages.named_parameters())
            for name, theirs in start.named_parameters():
                if name in tuned:
                    blended[name].copy_(theirs.to(self.device).lerp(tuned[name], share))
        self.model.load_state_dict(averaged.state_dict())

        @torch.inference_mode()
        def regions(sample: Sample, view: int) -> Tensor:
            return averaged.evidence_of(maps_of([sample], self.source, [view]).to(self.device))[0]

        chosen = readout_samples(self.train, self.config.readout_company, self.config.seed)
        fitted = self._empty_readout()
        self.out_of_fold = fit_readout(fitted, chosen, regions)
        self._attach(fitted)
        self.optimizer = self._optimizer()  # its moments were of other weights
        log.info("read-out fitted on %d samples", len(chosen))

    def _empty_readout(self) -> HazardReadout:
        size = self.encoder.evidence_size or self.encoder.feature_size
        return HazardReadout(size, len(HAZARD_CONCEPTS))

    def _attach(self, readout: HazardReadout) -> None:
        for decoder in (self.model.decoder, self._averaged().decoder):
            conditions = self.config.tuning_epochs > 0 or self._evidence_stands
            decoder.attach(copy.deepcopy(readout).to(self.device), conditions)

    def _hazards(self, batch: TrainingBatch, features: Tensor, mask: Tensor) -> Tensor | None:
        """Probabilities for the decoder to go by: out of fold where the read-out knows the scene.

        Pictures that it was not fitted on are new to it anyway.
        """
        if self.model.decoder.readout is None:
            return None
        told, is_told = (part.to(self.device) for part in self._told(batch))
        with torch.no_grad():
            return torch.where(is_told, told, self.model.decoder.hazards(features, mask))

    def _told(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Out-of-fold probabilities (N, H) of a batch, and whether there are any, (N, 1)."""
        nothing = torch.zeros(len(HAZARD_CONCEPTS))
        told = torch.stack([self.out_of_fold.get(s.key, nothing) for s in batch.samples])
        is_told = torch.tensor([s.key in self.out_of_fold for s in batch.samples])
        return told, is_told.unsqueeze(1)

    def _averaged(self) -> CaptionerTraining:
        module = self.average.module
        assert isinstance(module, CaptionerTraining)
        return module

    def _encoder(self) -> Encoder:
        encoder = build_encoder(self.config.encoder)
        load_imagenet_weights(encoder)
        if self.config.evidence_branch:
            encoder.attach_evidence(self.config.frozen_stages)
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
            evidence_size=self.encoder.evidence_size,
        )
        return Decoder(config)

    def _optimizer(self) -> torch.optim.Optimizer:
        rates = {self.model.decoder: 1.0, self.model.upper: self._encoder_share()}
        on_cuda, rate = self.device.type == "cuda", self.config.learning_rate
        groups = [
            {
                "params": [p for p in module.parameters() if p.requires_grad],
                "share": share,
                "lr": torch.tensor(rate * share, device=self.device) if on_cuda else rate * share,
            }
            for module, share in rates.items()
        ]
        self._joint = Graphed(self._joint_update, self.device, self._can_be_recorded)
        return torch.optim.AdamW(groups, weight_decay=1e-2, capturable=on_cuda)

    @property
    def _can_be_recorded(self) -> bool:
        """Whether a step is the same work each time, with nothing in it that changes by itself."""
        config = self.config
        changes = config.scheduled_sampling or config.latent_size or self.processes.count > 1
        return self.device.type == "cuda" and not changes

    def _encoder_share(self) -> float:
        return self.config.encoder_learning_rate / self.config.learning_rate

    def _epoch(self, phase: Phase) -> float:
        config = self.config
        seed = config.seed * 1000 + self.epoch
        torch.manual_seed(seed + 1_000_003 * self.processes.rank)
        repeated = [
            sample for sample in self.train for _ in range(config.repeats.get(sample.data_set, 1))
        ]
        order = random.Random(seed)
        rewarded = phase is Phase.SELF_CRITICAL
        self.model.train()
        self.divergences = []
        total, count = torch.zeros((), device=self.device), 0
        share = (self.processes.rank, self.processes.count)
        length = self._captions_at_length
        size = config.batch_clips
        drawn = Batches(repeated, self.source, self.vocabulary, size, order, share, length)
        self.processes.follow_leader(
            [*self.model.state_dict().values(), *self.average.state_dict().values()]
        )
        progress = tqdm(
            drawn, f"epoch {self.epoch}", mininterval=10, disable=not self.processes.leads
        )
        for batch in progress:
            self.progress = self.epoch + count / len(drawn)
            self._set_learning_rate(count / len(drawn))
            value = (
                self._joint_step(batch)
                if phase is Phase.JOINT
                else self._decoder_step(batch, rewarded)
            )
            total, count = total + value, count + 1
            if count % 50 == 0:
                progress.set_postfix(mean=f"{float(total) / count:.3f}")
        return float(total) / max(1, count)

    def _joint_step(self, batch: TrainingBatch) -> Tensor:
        target, weight = self.labels(batch.samples)
        told = self._told(batch)
        return self._joint(batch.maps, batch.mask, batch.tokens, target, weight, *told)

    def _joint_update(
        self,
        maps: Tensor,
        mask: Tensor,
        tokens: Tensor,
        target: Tensor,
        weight: Tensor,
        told: Tensor,
        is_told: Tensor,
    ) -> Tensor:
        """One step of everything; returns the loss of captions."""
        decoder = self.model.decoder
        with self._fast():
            features = self.model.features(maps).float()
        hazards = None
        if decoder.readout is not None:
            with torch.no_grad():
                hazards = torch.where(is_told, told, decoder.hazards(features, mask))
        memory = decoder.memory(features, mask, hazards)
        taught = None
        if self.teachers is not None:
            with self._fast():
                taught = self.teachers(maps, mask, tokens, hazards)
        captions = self._caption_loss(memory, tokens, taught)
        self._update(captions + self._concept_loss(features, mask, target, weight))
        return captions.detach()

    def _decoder_step(self, batch: TrainingBatch, rewarded: bool) -> Tensor:
        """Decoder and concepts learn: what the encoder sees is not the rewards' to bend."""
        mask = batch.mask.to(self.device)
        with torch.no_grad():
            features = self.model.features(batch.maps.to(self.device))
        memory = self.model.decoder.memory(features, mask, self._hazards(batch, features, mask))
        tokens = batch.tokens.to(self.device)
        if not rewarded:
            captions = self._caption_loss(memory, tokens)
            target, weight = (part.to(self.device) for part in self.labels(batch.samples))
            self._update(captions + self._concept_loss(features, mask, target, weight))
            return captions.detach()
        references = [[self._tokens(c) for c in s.captions] for s in batch.samples]
        with self._fast():
            loss, value = self_critical_loss(self.model.decoder, memory, references, self.reward)
        if share := self.config.self_critical_words:
            loss = (1 - share) * loss + share * self._caption_loss(memory, tokens)
        self._update(loss)
        return torch.tensor(value, device=self.device)

    def _concept_loss(
        self, features: Tensor, mask: Tensor, target: Tensor, weight: Tensor
    ) -> Tensor:
        """Weighted loss of the noisy-OR head itself, whatever a read-out says in its place."""
        head = self.model.decoder.concepts
        assert head is not None  # hazards at least are always concepts
        regions = self.model.decoder.seen(features)
        loss = concept_loss(head(regions, mask), target, weight)
        return self.config.concept_loss_weight * loss

    def _caption_loss(self, memory: Memory, tokens: Tensor, taught: Tensor | None = None) -> Tensor:
        """Cross-entropy in nats a word, partly against ``taught``; with a latent, its bound."""
        config, decoder = self.config, self.model.decoder
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
        config = self.config
        share = config.scheduled_sampling * min(1.0, self.progress / max(1, config.epochs))
        if not share:
            return tokens
        with torch.no_grad():
            logits, _ = self.model.decoder(memory, tokens)
        return own_words(logits, tokens, share)

    def _fast(self) -> torch.autocast:
        """Matrix products in bfloat16 where the hardware has them; sums stay in float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=_has_fast_bfloat16())

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.processes.average_gradients(self.model.parameters())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
        self.optimizer.step()
        decay = get_ema_multi_avg_fn(self.config.average_decay)  # type: ignore[no-untyped-call]
        decay(list(self._averaged().parameters()), list(self.model.parameters()), None)

    def _set_learning_rate(self, within: float) -> None:
        """Linear decay to a twentieth over the epochs of each phase."""
        stretch = self._stretch()
        passed = (self.epoch - stretch.first_epoch + within) / stretch.epochs
        rate = stretch.learning_rate * (1 - 0.95 * passed)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * group["share"])  # a recorded step reads it in its place
            else:
                group["lr"] = rate * group["share"]

    def _tokens(self, caption: str) -> tuple[int, ...]:
        return (*self.vocabulary.encode(caption), END)

    def _save_state(self) -> None:
        state: dict[str, Any] = {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "out_of_fold": self.out_of_fold,
            "best_cider": self.best_cider,
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
            self._attach(self._empty_readout())
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = int(state["epoch"])
        self.best_cider = float(state.get("best_cider", 0.0))
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
