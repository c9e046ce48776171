"""The training loop: cross-entropy, then self-critical; resumes where a kill left it."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from models.captioner import Captioner
from models.checkpoint import save_checkpoint
from models.decoders import Decoder, DecoderConfig
from models.encoders import build_encoder, load_imagenet_weights
from models.training.data import TrainingBatch, batches, caption_tensor, features_of
from models.training.features import FeatureCache
from models.training.losses import CiderReward, cross_entropy, self_critical_loss
from models.training.sources import Sample
from models.vocabulary import END, Vocabulary

__all__ = ["Trainer", "TrainingConfig"]

log = logging.getLogger(__name__)


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
    surveillance_repeats: int
    self_critical_epochs: int
    self_critical_learning_rate: float


class Trainer:
    """Trains the decoder over a frozen encoder's cached features.

    Every epoch begins by seeding all randomness from (seed, epoch), so an epoch that a kill cut
    off is repeated exactly, and a resumed run equals an unbroken one.
    """

    def __init__(
        self, config: TrainingConfig, samples: list[Sample], cache: FeatureCache, folder: Path
    ) -> None:
        self.config = config
        self.cache = cache
        self.folder = folder
        self.train = [sample for sample in samples if sample.split == "train"]
        self.validation = [s for s in samples if s.split == "val" and s.source == "flickr"]
        self.vocabulary = _vocabulary(self.train, config.min_word_count)
        torch.manual_seed(config.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        size = cache.rows.shape[-1]
        self.decoder = Decoder(DecoderConfig(len(self.vocabulary), size)).to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.decoder.parameters(), lr=config.learning_rate, weight_decay=1e-2
        )
        self.epoch = 0
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
        """Write a checkpoint with the encoder's starting weights and the decoder as it is."""
        encoder = build_encoder(self.config.encoder)
        load_imagenet_weights(encoder)
        save_checkpoint(
            folder, Captioner(encoder, self.decoder, self.vocabulary, self.config.input_size)
        )

    @torch.no_grad()
    def validate(self) -> float:
        """Mean cross-entropy, in nats a word, on the validation pictures' captions."""
        self.decoder.eval()
        total = 0.0
        chunks = [self.validation[i : i + 50] for i in range(0, len(self.validation), 50)]
        for chunk in chunks:
            features = features_of(chunk, self.cache, [0] * len(chunk)).to(self.device)
            tokens = caption_tensor([s.captions for s in chunk], self.vocabulary)
            mask = torch.ones(features.shape[:2], dtype=torch.bool, device=self.device)
            tokens = tokens.to(self.device)
            logits, _ = self.decoder(self.decoder.memory(features, mask), tokens)
            total += float(cross_entropy(logits, tokens, 0.0))
        return total / max(1, len(chunks))

    def _epoch(self, self_critical: bool) -> float:
        config = self.config
        seed = config.seed * 1000 + self.epoch
        torch.manual_seed(seed)
        repeated = [
            sample
            for sample in self.train
            for _ in range(1 if sample.source == "flickr" else config.surveillance_repeats)
        ]
        order = random.Random(seed)
        reward = self._reward() if self_critical else None
        self.decoder.train()
        total, count = 0.0, 0
        planned = len(repeated) // config.batch_clips
        progress = tqdm(
            batches(repeated, self.cache, self.vocabulary, config.batch_clips, order),
            desc=f"epoch {self.epoch}",
            total=planned,
            mininterval=10,
        )
        for batch in progress:
            self._set_learning_rate(count / max(1, planned))
            value = self._step(batch, reward)
            total, count = total + value, count + 1
            if count % 50 == 0:
                progress.set_postfix(mean=f"{total / count:.3f}")
        return total / max(1, count)

    def _step(self, batch: TrainingBatch, reward: CiderReward | None) -> float:
        features, mask = batch.features.to(self.device), batch.mask.to(self.device)
        tokens = batch.tokens.to(self.device)
        memory = self.decoder.memory(features, mask)
        if reward is None:
            logits, _ = self.decoder(memory, tokens)
            loss = cross_entropy(logits, tokens, self.config.label_smoothing)
            value = float(loss.detach())
        else:
            references = [[self._tokens(c) for c in s.captions] for s in batch.samples]
            loss, value = self_critical_loss(self.decoder, memory, references, reward)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), 2.0)
        self.optimizer.step()
        return value

    def _set_learning_rate(self, within: float) -> None:
        """Linear decay to a tenth over the cross-entropy epochs; constant afterwards."""
        config = self.config
        if self.epoch >= config.epochs:
            rate = config.self_critical_learning_rate
        else:
            rate = config.learning_rate * (1 - 0.9 * (self.epoch + within) / config.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _reward(self) -> CiderReward:
        return CiderReward([[self._tokens(c) for c in s.captions] for s in self.train])

    def _tokens(self, caption: str) -> tuple[int, ...]:
        return (*self.vocabulary.encode(caption), END)

    def _save_state(self) -> None:
        state: dict[str, Any] = {
            "epoch": self.epoch,
            "decoder": self.decoder.state_dict(),
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
        self.decoder.load_state_dict(state["decoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = int(state["epoch"])
        log.info("resumed before epoch %d", self.epoch)


def _vocabulary(samples: list[Sample], min_count: int) -> Vocabulary:
    """Flickr's words by count; a surveillance word is kept when it occurs twice."""
    surveillance = [c for s in samples if s.source != "flickr" and not s.clip for c in s.captions]
    rare = Vocabulary.build(surveillance, 2)
    return Vocabulary.build([c for s in samples for c in s.captions], min_count, rare.words[4:])
