"""The captioner: encoder, fusion, decoder, search, checkpoints. Knows nothing of the pipeline."""

from models.captioner import Captioner, Hypothesis
from models.checkpoint import CheckpointError
from models.registry import load_captioner

__all__ = ["Captioner", "CheckpointError", "Hypothesis", "load_captioner"]
