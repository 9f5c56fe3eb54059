"""A small random Stable Diffusion in a folder, like a published one, and a small codec of `discover`."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from helpers.codecs import randomise_weights
from trifocal.codecs.diffusion_codec import DiffusionCodec
from trifocal.codecs.discover import discover

FOLDER = "stable-diffusion-2-1-base"  # in the folder of networks
N, SIZES = 8, (4, 4, 8)
UNET: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": (2, 2),
    "norm_num_groups": 4,
    "use_linear_projection": True,
}


def make_stable_diffusion(folder: Path, seed: int = 0, prediction: str = "epsilon") -> Path:
    """The classes of Stable Diffusion 2.1-base at small sizes. The VAE has a stride of 8, as there."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(sample_size=16, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **UNET)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        sample_size=64,
    )
    words = ["<|startoftext|>", "<|endoftext|>", "a", "a</w>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=7,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=7)
    schedule = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline: Any = StableDiffusionPipeline(
            vae, text, tokenizer, unet, schedule, None, None, requires_safety_checker=False
        )
        pipeline.save_pretrained(folder)
    return folder


def tiny_discover() -> DiffusionCodec:
    """The classes of `discover` at small widths."""
    return discover(N, SIZES, (12, 8), 1, UNET)


def small_discover(seed: int = 0) -> DiffusionCodec:
    """`tiny_discover` with random weights, also in the convolutions of zeros."""
    torch.manual_seed(seed)
    codec = tiny_discover()
    randomise_weights(codec, seed)
    codec.preset_id = 13
    return codec
