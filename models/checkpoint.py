"""A checkpoint is a folder: tensors (safetensors), config, vocabulary and card; never a pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.captioner import Captioner
from models.checkpoint_files import (
    CONCEPTS,
    CONFIG,
    LEXICON,
    TENSORS,
    VOCABULARY,
    checkpoint_identity,
)
from models.closer_look import FIRE, CloserLook
from models.concept_agreement import ConceptLexicon
from models.concept_vocabulary import ConceptVocabulary
from models.decoders import Decoder, DecoderConfig
from models.encoders import EncoderError, build_encoder
from models.grounding import Thresholds
from models.vocabulary import Vocabulary

__all__ = ["CheckpointError", "load_checkpoint", "save_checkpoint", "save_lexicon"]

_IN_8_BITS = ("encoder.evidence.", "decoder.words.")
_IN_32_BITS = "closer."
"""Weights of squares are too small for half precision, and there are few of them."""
_SCALE = ".scale_of_8_bits"


class CheckpointError(Exception):
    """A checkpoint cannot be used; the text says which file and what to do."""


def save_checkpoint(folder: Path, captioner: Captioner) -> None:
    """Write tensors in half precision, config with the tensors' SHA-256, and vocabulary.

    What only a linear read-out or a look-up hangs on is kept in eight bits (:data:`_IN_8_BITS`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, value in captioner.state_dict().items():
        if name.startswith(_IN_8_BITS) and value.dim() > 1:
            tensors[name], tensors[name + _SCALE] = _quantised(value.cpu())
        else:
            halved = value.is_floating_point() and not name.startswith(_IN_32_BITS)
            kept = value.half() if halved else value
            tensors[name] = kept.contiguous().cpu()
    save_file(tensors, folder / TENSORS)
    config = {
        "format": 2,
        "encoder": captioner.encoder.name,
        "evidence_after": branch.lower_stages if (branch := captioner.encoder.evidence) else None,
        "closer_after": closer.after if (closer := captioner.closer) else None,
        "input_size": captioner.input_size,
        "decoder": asdict(captioner.decoder.config),
        "thresholds": {h: asdict(t) for h, t in captioner.concepts.thresholds.items()},
        "sha256": _sha256(folder / TENSORS),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    (folder / VOCABULARY).write_text("\n".join(captioner.vocabulary.words) + "\n")
    if captioner.concepts.words:
        (folder / CONCEPTS).write_text("\n".join(captioner.concepts.words) + "\n")
    if captioner.concepts.lexicon:
        save_lexicon(folder, captioner.concepts.lexicon)


def save_lexicon(folder: Path, lexicon: ConceptLexicon) -> None:
    """Write what is said of a checkpoint's concepts; a checkpoint without it does without."""
    (folder / LEXICON).write_text("\n".join(lexicon.lines()) + "\n", encoding="utf-8")


def load_checkpoint(folder: Path, name: str, device: torch.device) -> Captioner:
    """Load a checkpoint folder for inference.

    Raises:
        CheckpointError: A file is missing, damaged or does not belong to the others.

    """
    config = _read_config(folder)
    try:
        decoder_config = DecoderConfig(**config["decoder"])
        encoder = build_encoder(config["encoder"])
        if (stages := config.get("evidence_after")) is not None:
            encoder.attach_evidence(int(stages))
        vocabulary = Vocabulary(_lines(folder / VOCABULARY))
        words = _lines(folder / CONCEPTS) if decoder_config.concept_count else []
        given = config.get("thresholds", {})
        concepts = ConceptVocabulary(
            tuple(words),
            _read_lexicon(folder / LEXICON),
            {hazard: Thresholds(**values) for hazard, values in given.items()},
        )
        decoder = Decoder(decoder_config)
        captioner = Captioner(encoder, decoder, vocabulary, int(config["input_size"]), concepts)
        if (stages := config.get("closer_after")) is not None:
            if FIRE not in words[: decoder_config.hazard_count]:
                raise ValueError(f"closer_after is given, and {FIRE} is no hazard of the model")
            captioner.closer = CloserLook(encoder.channels_after(int(stages)), int(stages))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: {error.filename} is missing") from None
    except (KeyError, TypeError, ValueError, EncoderError) as error:
        raise CheckpointError(f"{folder / CONFIG}: not usable: {error}") from None
    _fill(captioner, folder / TENSORS, str(config.get("sha256", "")))
    captioner.identity = checkpoint_identity(folder, name)
    return captioner.eval().to(device)


def _read_lexicon(file: Path) -> ConceptLexicon | None:
    if not file.is_file():
        return None
    try:
        return ConceptLexicon.read(_lines(file))
    except ValueError as error:
        raise CheckpointError(f"{file}: not usable: {error}; fetch it again") from None


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").split("\n")[:-1]


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no checkpoint there ({CONFIG} is missing)") from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{folder / CONFIG}: cannot be read: {error}") from None
    if not isinstance(config, dict) or config.get("format") not in (1, 2):
        raise CheckpointError(f"{folder / CONFIG}: not a checkpoint of format 1 or 2")
    return config


def _fill(captioner: Captioner, file: Path, sha256: str) -> None:
    if not file.is_file():
        raise CheckpointError(f"{file}: missing; fetch the checkpoint again")
    if _sha256(file) != sha256:
        raise CheckpointError(f"{file}: damaged (its SHA-256 is not the config's); fetch it again")
    try:
        tensors = _whole(load_file(file))
        if (offset := tensors.get("decoder.readout.offset")) is not None:
            # Checkpoints written before change could tell by itself.
            tensors.setdefault("decoder.readout.alone", torch.zeros_like(offset))
        captioner.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(f"{file}: does not fit its config: {first}") from None


def _quantised(value: Tensor) -> tuple[Tensor, Tensor]:
    """Eight-bit integers, and the scale of each output channel: symmetric, to the nearest."""
    rows = tuple(range(1, value.dim()))
    scale = (value.abs().amax(rows, keepdim=True) / 127).clamp_min(1e-12)
    return (value / scale).round().to(torch.int8).contiguous(), scale.contiguous()


def _whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: value.float() * tensors[name + _SCALE] if name + _SCALE in tensors else value.float()
        for name, value in tensors.items()
        if not name.endswith(_SCALE)
    }


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
