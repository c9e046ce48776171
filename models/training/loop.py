"""The training loop: cross-entropy, then self-critical; resumes where a kill left it."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from models.captioner import Captioner
from models.checkpoint import save_checkpoint
from models.concept_vocabulary import ConceptVocabulary
from models.concepts import HazardReadout
from models.decoders import Decoder, DecoderConfig
from models.encoders import Encoder, build_encoder, load_imagenet_weights
from models.grounding import people_thresholds
from models.training.concepts import (
    HAZARD_CONCEPTS,
    ConceptLabels,
    concept_lexicon,
    concept_words,
)
from models.training.config import TrainingConfig
from models.training.data import LONGEST, Batches, MapSource, TrainingBatch, maps_of
from models.training.losses import CiderReward
from models.training.parallel import ALONE, Processes
from models.training.readout import OutOfFold, choose_thresholds, fit_readout, readout_samples
from models.training.sources import DataError, Sample
from models.training.start import with_words
from models.training.steps import Steps, Targets
from models.training.teachers import Teachers
from models.training.trained import CaptionerTraining
from models.training.tuning import plain_state, tune
from models.training.validation import Validation, held_out
from models.vocabulary import END, Vocabulary
from models.wording import neutral

__all__ = ["Trainer"]

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
        start: Captioner | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.processes = processes
        self.source = source
        self.folder = folder
        self.train = [_neutral(s) for s in samples if s.split in config.learns_from]
        captions = [c for s in self.train if not s.clip for c in s.captions]
        spoken = [_neutral(s) for s in samples if s.split in config.words_from]
        self.vocabulary = _vocabulary(spoken, config.min_word_count)
        self.start = start if start is None else with_words(start, self.vocabulary.said)
        if self.start is None:
            concepts: Sequence[str] = concept_words(captions, config.concept_min_count)
        else:
            self.vocabulary, concepts = self.start.vocabulary, self.start.concept_words
        self.reward = CiderReward([[self._tokens(c) for c in s.captions] for s in self.train])
        judged = held_out(samples, config.validate_on)
        log.info("%d samples to learn from, %d to judge by", len(self.train), len(judged))
        self.validation = Validation(judged, source, self.vocabulary, self.reward)
        self.labels = ConceptLabels(concepts, config.hazard_weight)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder = self._encoder()
        self.model = CaptionerTraining(self.encoder, self._decoder(), config.frozen_stages).to(
            self.device
        )
        tune(self.model.upper, config.encoder_tuning, config.lora_rank)
        self.model.to(self.device)
        self.average = AveragedModel(self.model)
        self.steps = Steps(config, self.model, self._averaged(), processes, self._teachers())
        self.epoch = 0
        self.best_cider = 0.0
        self.out_of_fold: OutOfFold = {}
        self._captions_at_length = LONGEST if self.device.type == "cuda" else None
        self._of = _training_of(config, self.train, self.vocabulary, self.labels.words)
        self._of["the checkpoint it begins from"] = "" if start is None else start.identity
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
                for name in ("checkpoint", "best"):
                    self.export(self.folder / name)
                self._save_state()  # last: what a kill cuts off before is done again
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
        scores = {
            "reward" if rewarded else "train/loss": mean,
            "val/loss": found.loss,
            "val/cider": found.cider,
        }
        latent = ""
        if divergences := self.steps.divergences:  # near zero, the latent says nothing
            nats = float(torch.stack(divergences).mean())
            scores["train/latent_nats_a_caption"] = nats
            latent = f", latent {nats:.2f} nats a caption"
        log.info("epoch %d: train %.3f, validation %s%s", self.epoch, mean, found, latent)
        for name, value in scores.items():
            if math.isnan(value):
                continue
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
        captioner = Captioner(
            encoder,
            averaged.decoder,
            self.vocabulary,
            self.config.input_size,
            self._concepts(),
        )
        captioner.closer = None if self.start is None else self.start.closer
        save_checkpoint(folder, captioner)

    def _concepts(self) -> ConceptVocabulary:
        if self.start is not None:
            return self.start.concepts
        config = self.config
        chosen = choose_thresholds(
            self.train,
            self.out_of_fold,
            config.false_hazards,
            config.missed_hazards,
            config.hazard_cost,
        )
        return ConceptVocabulary(
            self.labels.words,
            concept_lexicon(self.train, self.labels.words, self.vocabulary),
            {**chosen, **people_thresholds(config.people_deny)},
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
        self.steps.begin_anew()
        log.info("read-out fitted on %d samples", len(chosen))

    def _empty_readout(self) -> HazardReadout:
        size = self.encoder.evidence_size or self.encoder.feature_size
        return HazardReadout(size, len(HAZARD_CONCEPTS))

    def _attach(self, readout: HazardReadout) -> None:
        for decoder in (self.model.decoder, self._averaged().decoder):
            conditions = self.config.tuning_epochs > 0 or self._evidence_stands
            decoder.attach(copy.deepcopy(readout).to(self.device), conditions)

    def _targets(self, batch: TrainingBatch) -> Targets:
        nothing = torch.zeros(len(HAZARD_CONCEPTS))
        told = torch.stack([self.out_of_fold.get(s.key, nothing) for s in batch.samples])
        is_told = torch.tensor([s.key in self.out_of_fold for s in batch.samples])
        return Targets(*self.labels(batch.samples), told, is_told.unsqueeze(1))

    def _teachers(self) -> Teachers | None:
        config = self.config
        if not config.teachers:
            return None
        checkpoints = [Path(path) for path in config.teachers]
        return Teachers(checkpoints, self.vocabulary, config.frozen_stages, self.device)

    def _averaged(self) -> CaptionerTraining:
        module = self.average.module
        assert isinstance(module, CaptionerTraining)
        return module

    def _encoder(self) -> Encoder:
        if self.start is not None:
            return copy.deepcopy(self.start.encoder)
        encoder = build_encoder(self.config.encoder)
        load_imagenet_weights(encoder)
        if self.config.evidence_branch:
            encoder.attach_evidence(self.config.frozen_stages)
        return encoder

    def _decoder(self) -> Decoder:
        if self.start is not None:
            return copy.deepcopy(self.start.decoder)
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

    def _epoch(self, phase: Phase) -> float:
        config = self.config
        seed = config.seed * 1000 + self.epoch
        torch.manual_seed(seed + 1_000_003 * self.processes.rank)
        repeated = [
            sample for sample in self.train for _ in range(config.repeats.get(sample.data_set, 1))
        ]
        order = random.Random(seed)
        self.model.train()
        self.steps.divergences = []
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
            self.steps.progress = self.epoch + count / len(drawn)
            self.steps.set_learning_rate(self._learning_rate(count / len(drawn)))
            total, count = total + self._step(phase, batch), count + 1
            if count % 50 == 0:
                progress.set_postfix(mean=f"{float(total) / count:.3f}")
        return float(total) / max(1, count)

    def _step(self, phase: Phase, batch: TrainingBatch) -> Tensor:
        """Learn from one batch; returns its loss, or its reward."""
        targets = self._targets(batch)
        if phase is Phase.JOINT:
            return self.steps.joint(batch, targets)
        if phase is Phase.TUNING:
            return self.steps.decoder(batch, targets)
        references = [[self._tokens(c) for c in s.captions] for s in batch.samples]
        return self.steps.self_critical(batch, targets, references, self.reward)

    def _learning_rate(self, within: float) -> float:
        """Linear decay to a twentieth over the epochs of each phase."""
        stretch = self._stretch()
        passed = (self.epoch - stretch.first_epoch + within) / stretch.epochs
        return stretch.learning_rate * (1 - 0.95 * passed)

    def _tokens(self, caption: str) -> tuple[int, ...]:
        return (*self.vocabulary.encode(caption), END)

    def _save_state(self) -> None:
        state: dict[str, Any] = {
            "of": self._of,
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.steps.optimizer.state_dict(),
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
        _refuse_another(file, state.get("of", {}), self._of)
        self.out_of_fold = dict(state["out_of_fold"])
        if self.out_of_fold:
            self._attach(self._empty_readout())
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.steps.optimizer.load_state_dict(state["optimizer"])
        self.epoch = int(state["epoch"])
        self.best_cider = float(state.get("best_cider", 0.0))
        log.info("resumed before epoch %d", self.epoch)


def _training_of(
    config: TrainingConfig, train: Sequence[Sample], words: Vocabulary, concepts: Sequence[str]
) -> dict[str, str]:
    """What a training is, by parts as text: a state of another one must not be gone on from."""
    lengths = ("epochs", "tuning_epochs", "self_critical_epochs")  # may be lengthened
    keys = {key: value for key, value in asdict(config).items() if key not in lengths}
    samples = "\n".join(sorted(repr(sample) for sample in train))
    return {
        "the words of its captions": _digest(" ".join(words.words)),
        "its concepts": _digest(" ".join(concepts)),
        "what it learns from": _digest(samples),
        **{key: repr(value) for key, value in keys.items()},
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse_another(file: Path, theirs: Mapping[str, str], ours: Mapping[str, str]) -> None:
    """Refuse the state of a training that is not this one.

    What the version that wrote it did not note, such as a newer key, is not held against it.

    Raises:
        DataError: It is another's; the text names what differs.

    """
    if other := [part for part, value in ours.items() if theirs.get(part, value) != value]:
        raise DataError(
            f"{file} is of another training ({', '.join(other)} differ); name another --output, "
            "or delete it to begin anew"
        )


def _neutral(sample: Sample) -> Sample:
    return replace(sample, captions=tuple(neutral(caption) for caption in sample.captions))


def _vocabulary(samples: list[Sample], min_count: int) -> Vocabulary:
    """Words by count; a word of a set with labelled hazards is kept when it occurs twice."""
    labelled = [c for s in samples if s.hazards is not None and not s.clip for c in s.captions]
    rare = Vocabulary.build(labelled, 2)
    return Vocabulary.build([c for s in samples for c in s.captions], min_count, rare.said)
