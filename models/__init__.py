"""The captioner: encoder, fusion, decoder, search, checkpoints. Knows nothing of the pipeline."""

from models.captioner import Captioner, Hypothesis
from models.checkpoint import CheckpointError
from models.decoding import Decoding
from models.registry import load_captioner

__all__ = ["Captioner", "CheckpointError", "Decoding", "Hypothesis", "load_captioner"]
