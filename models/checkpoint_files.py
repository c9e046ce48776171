"""The files of a checkpoint, and the id that tells one checkpoint from another.

Loads no PyTorch, so that the command line can say it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

__all__ = ["CONCEPTS", "CONFIG", "LEXICON", "TENSORS", "VOCABULARY", "checkpoint_identity"]

TENSORS, CONFIG, VOCABULARY = "model.safetensors", "config.json", "vocabulary.txt"
CONCEPTS, LEXICON = "concepts.txt", "concept_lexicon.txt"

_TEXTS = (VOCABULARY, CONCEPTS, LEXICON)


def checkpoint_identity(folder: Path, name: str) -> str:
    """Name a checkpoint by all that its captions and its evidence depend on.

    Returns:
        ``NAME-TENSORS-REST``: the first 12 hex digits of the tensors' SHA-256, as the
        configuration gives it, and the first 8 of another over the rest of the configuration, the
        vocabulary, the concept words and their lexicon. How a file is laid out (white space in the
        configuration, the order of its keys, ends of lines) makes no difference.

    Raises:
        OSError: A file cannot be read.
        ValueError: The configuration is no JSON, or a file no UTF-8.

    """
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    tensors = str(config.pop("sha256", ""))
    files = [folder / text for text in _TEXTS]
    texts = [file.read_text(encoding="utf-8") if file.is_file() else None for file in files]
    rest = hashlib.sha256(json.dumps([config, *texts], sort_keys=True).encode()).hexdigest()
    return f"{name}-{tensors[:12]}-{rest[:8]}"
