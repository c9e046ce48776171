"""What a training can be told, as ``configs/train/*.yaml`` holds it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from models.cells import CELLS
from models.fusion import FUSIONS
from models.training.features import CacheSettings
from models.training.tuning import TUNINGS

__all__ = ["TrainingConfig", "TrainingConfigError", "read_config"]


class TrainingConfigError(ValueError):
    """A training configuration that cannot be used; the text says what is wrong."""


def _one_of(known: Iterable[str]) -> AfterValidator:
    names = tuple(known)

    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return name

    return AfterValidator(check)


Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Split = Literal["train", "val", "test", "unused"]


@dataclass(frozen=True)
class TrainingConfig:
    """What ``configs/train/*.yaml`` holds."""

    encoder: str
    input_size: Count
    frames_per_clip: Count
    min_word_count: Count
    seed: int
    batch_clips: Count
    epochs: Whole
    learning_rate: Rate
    label_smoothing: Share
    self_critical_epochs: Whole
    self_critical_learning_rate: Rate
    self_critical_words: Share = 0.0
    """Share of the cross-entropy of the references in the loss of the self-critical epochs
    (Paulus et al. 2018, eq. 16): it keeps to the language while rewards sharpen it."""
    scheduled_sampling: Share = 0.0
    """Share of the words read that are the model's own, at the end of the joint epochs; it rises
    from none (Bengio et al. 2015; in two passes, as Mihaylova and Martins 2019)."""
    frozen_stages: Whole = 6
    views: Count = 4
    live_views: bool = False
    """Whether all pictures are held in memory and every view is made anew while training
    (:mod:`models.training.live_views`); for a GPU. Else ``views`` are made once and cached."""
    data_sets: tuple[str, ...] = ()
    """The only data sets of the data root that are read and cached; all where none is named."""
    learns_from: tuple[Split, ...] = ("train",)
    """Splits that are learnt from; with ``val`` among them what validation says is no judgement."""
    words_from: tuple[Split, ...] = ("train",)
    """Splits whose captions make the vocabulary: teachers and their pupil need the same."""
    start: str = ""
    """A shipped name or a checkpoint folder to begin from (:mod:`models.training.start`)."""
    teachers: tuple[str, ...] = ()
    """Checkpoints whose mean opinion of each next word is learnt too, in the joint epochs."""
    teacher_weight: Share = 0.5
    encoder_learning_rate: Rate = 1e-4
    attention: Annotated[str, _one_of(FUSIONS)] = "dot"
    cell: Annotated[str, _one_of(CELLS)] = "lstm"
    gate: bool = True
    latent_size: Whole = 0
    kl_annealing_epochs: float = 4.0
    kl_weight: float = 1.0
    encoder_tuning: Annotated[str, _one_of(TUNINGS)] = "full"
    lora_rank: Count = 8
    concept_min_count: Count = 30
    concept_loss_weight: float = 0.1
    hazard_weight: float = 5.0
    average_decay: Share = 0.998
    tuning_epochs: Whole = 0
    """Cross-entropy epochs of the decoder alone, after the hazard read-out has been fitted."""
    tuning_learning_rate: Rate = 3e-4
    readout: bool = False
    evidence_branch: bool = False
    """Whether the read-out reads a second upper encoder and the maps below it
    (:mod:`models.evidence_branch`) instead of the tuned features."""
    encoder_blend: Share = 1.0
    """Share of the fine-tuned upper encoder in what the read-out reads; the rest is the starting
    weights."""
    false_hazards: Mapping[str, Share] = field(default_factory=dict)
    """By hazard, the share of pictures without it where evidence may make captions name it; one
    in a hundred where it is not named."""
    missed_hazards: Mapping[str, Share] = field(default_factory=dict)
    """By hazard, the share of pictures with it where evidence may keep captions from naming it;
    one in twenty where it is not named."""
    hazard_cost: float | None = None
    """Nats of a caption's score that a hazard word may cost where evidence alone asks for it;
    None: any."""
    people_deny: Share = 0.1
    """Captions name nobody where the likeliest concept of people is below it."""
    readout_company: Whole = 1500
    """How many pictures without labelled hazards the read-out is fitted on beside the others."""
    repeats: Mapping[str, Whole] = field(default_factory=dict)
    """How often an epoch shows a data set, by its name; once where it is not named."""
    validate_on: str = "flickr8k"
    """The data set by whose validation pictures epochs are judged; all where it has none."""

    @property
    def cache(self) -> CacheSettings:
        """What the feature cache depends on."""
        return CacheSettings(
            self.encoder,
            self.frozen_stages,
            self.input_size,
            self.frames_per_clip,
            self.views,
            tuple(self.data_sets),
        )


def read_config(path: Path) -> TrainingConfig:
    """Read a file of ``configs/train``.

    Raises:
        TrainingConfigError: It cannot be read, or a key of it is unknown, missing or of a value
            that cannot be; the text says in which line.

    """
    try:
        text = path.read_text(encoding="utf-8")
        keys, root = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingConfigError(f"{path}: {error}") from None
    if not isinstance(keys, dict) or not isinstance(root, yaml.MappingNode):
        raise TrainingConfigError(f"{path}: must be a mapping of keys to values")
    lines = {key.value: key.start_mark.line + 1 for key, _ in root.value}
    known = [each.name for each in fields(TrainingConfig)]
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            also = f"; did you mean {near[0]!r}?" if near else ""
            raise TrainingConfigError(f"{path}:{lines.get(key, 1)}: unknown key {key!r}{also}")
    try:
        return TypeAdapter(TrainingConfig).validate_python(keys)
    except ValidationError as error:
        raise TrainingConfigError("\n".join(_explained(path, lines, error))) from None


def _explained(path: Path, lines: Mapping[str, int], error: ValidationError) -> Iterator[str]:
    for each in error.errors(include_url=False):
        key = str(each["loc"][0])
        if each["type"] == "missing":
            yield f"{path}: {key} is missing"
            continue
        whole = ".".join(map(str, each["loc"]))
        what = "must be a list, such as [a, b]" if each["type"] == "tuple_type" else each["msg"]
        what = what.removeprefix("Value error, ")
        yield f"{path}:{lines.get(key, 1)}: {whole}: {what}, not {each['input']!r}"
