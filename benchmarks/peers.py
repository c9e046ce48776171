"""What a user would pick instead, from `transformers`, with random weights and a fixed length.

Random weights take as long as trained ones when the length is fixed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["blip_base", "generate_with_decoder"]

_BEGIN, _END = 1, 2


def generate_with_decoder(
    features: Tensor, words: int, hidden: int, layers: int, beam: int, steps: int
) -> tuple[Callable[[], object], int]:
    """Return `generate` over (N, R, D) features with a GPT-2 of this size, and its parameters."""
    from transformers import GPT2Config, VisionEncoderDecoderConfig, ViTConfig
    from transformers import VisionEncoderDecoderModel as Captioner
    from transformers.modeling_outputs import BaseModelOutput

    decoder = GPT2Config(
        vocab_size=words,
        n_embd=hidden,
        n_layer=layers,
        n_head=8,
        n_positions=64,
        bos_token_id=_BEGIN,
        eos_token_id=_END,
        add_cross_attention=True,
    )
    encoder = ViTConfig(
        hidden_size=features.shape[-1],
        num_hidden_layers=0,
        num_attention_heads=8,
        intermediate_size=8,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model = Captioner(config).eval().to(features.device)

    def run() -> object:
        with torch.inference_mode():
            return model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=features),
                decoder_start_token_id=_BEGIN,
                pad_token_id=0,
                num_beams=beam,
                do_sample=False,
                min_new_tokens=steps,
                max_new_tokens=steps,
            )

    return run, sum(p.numel() for p in model.decoder.parameters())


def blip_base(
    images: int,
    beam: int,
    steps: int,
    device: str = "cpu",
    precision: torch.dtype = torch.float32,
) -> Callable[[], object]:
    """Return captioning of 384-pixel images by a model of BLIP-base's size."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    with torch.device(device):
        model = BlipForConditionalGeneration(BlipConfig()).eval().to(precision)
        side = model.config.vision_config.image_size
        pixels = torch.zeros(images, 3, side, side, dtype=precision)

    def run() -> object:
        with torch.inference_mode():
            return model.generate(
                pixel_values=pixels, num_beams=beam, min_new_tokens=steps, max_new_tokens=steps
            )

    return run
