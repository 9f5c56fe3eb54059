"""Stable Diffusion's frozen networks, through the package diffusers.

R. Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (CVPR 2022). A model is
named as on the Hugging Face Hub, or by its folder. One in the folder of networks (`utils.local_networks`) or
in the cache is used without access to the network.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trifocal.errors import WeightsError, optional_packages
from trifocal.utils.local_networks import HOW_TO_NAME, local_model

__all__ = [
    "EXTRA",
    "NAME",
    "NEED",
    "UNET",
    "StableDiffusion",
    "load_stable_diffusion",
    "untrained_stable_diffusion",
]

NAME = "stabilityai/stable-diffusion-2-1-base"
EXTRA, NEED = "discover", "Stable Diffusion"
UNET: Mapping[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}  # sizes of the U-Net of 2.1-base that differ from diffusers' defaults
VAE: Mapping[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "sample_size": 768,
}
NOISE: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
PROMPT_TOKENS = 77  # of every text, with its padding


@dataclass(frozen=True, eq=False)
class StableDiffusion:
    """Frozen networks on one device.

    Attributes:
        unet: predicts the noise in a latent.
        vae: images ⇄ latents of 4 channels at 1/8.
        prompt: token vectors of the empty text, [1, T, D].
        schedule: configuration of the noise schedule, for diffusers' schedulers.
    """

    unet: Any
    vae: Any
    prompt: Tensor
    schedule: Any

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] in 0..1, H and W multiples of 8 → latents z_c [B, 4, H/8, W/8], the means of the
        VAE's distribution, scaled to about unit variance."""
        parts = [self.vae.encode(2 * part - 1).latent_dist.mode() for part in x.split(1)]
        z: Tensor = self.vae.config.scaling_factor * torch.cat(parts)
        return z

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """The inverse of `encode`: [B, 4, h, w] → images [B, 3, 8·h, 8·w], about 0..1."""
        parts = [self.vae.decode(part / self.vae.config.scaling_factor).sample for part in z.split(1)]
        x: Tensor = (torch.cat(parts) + 1) / 2
        return x

    @property
    def noise_steps(self) -> int:
        """Steps of the noise schedule."""
        steps: int = self.schedule.num_train_timesteps
        return steps

    def add_noise(self, z: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """A latent [B, 4, h, w] at steps of the noise schedule, [B], 0..`noise_steps` − 1."""
        from diffusers import DDIMScheduler

        noisy: Tensor = DDIMScheduler.from_config(self.schedule).add_noise(z, noise, time)
        return noisy

    def predict_noise(self, z: Tensor, time: Tensor, control: Any, z_c: Tensor) -> Tensor:
        """Predict the noise in a latent. Gradients reach the control module and z_c.

        Args:
            z: noisy latents, [B, 4, h, w].
            time: steps of the noise schedule, [B] or a scalar.
            control: the control module; see `control.control_module`.
            z_c: decoded latents that it reads, [B, 4, h, w].
        """
        prompt = self.prompt.expand(len(z), -1, -1)
        down, middle = control(z, time, prompt, controlnet_cond=z_c, return_dict=False)
        noise: Tensor = self.unet(
            z,
            time,
            prompt,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        return noise


def load_stable_diffusion(name: str = NAME, device: str = "cpu") -> StableDiffusion:
    """Load a Stable Diffusion that predicts noise; the same object for the same model and device.

    Args:
        name: of a model on the Hugging Face Hub, or a folder in the layout of diffusers.
        device: of torch.

    Raises:
        MissingExtra: if diffusers or transformers is not installed.
        WeightsError: if the model cannot be loaded, or predicts something else.
    """
    return _load(local_model(name), device)


@lru_cache(maxsize=2)
def _load(name: str, device: str) -> StableDiffusion:
    with optional_packages(EXTRA, NEED):
        from diffusers import StableDiffusionPipeline
    try:
        with _silence(), torch.inference_mode(False):  # training needs gradients through the U-Net
            pipeline = _from_pretrained(StableDiffusionPipeline, name)
            prompt = pipeline.encode_prompt("", torch.device("cpu"), 1, False)[0].detach()
    except Exception as error:  # OSError, or almost any exception for files of another kind
        raise WeightsError(
            f"The diffusion model {name!r} cannot be loaded; download it to FOLDER/{Path(name).name} on a "
            f"machine with network access, and {HOW_TO_NAME}."
        ) from error
    if pipeline.scheduler.config.prediction_type != "epsilon":
        raise WeightsError(
            f"The diffusion model {name!r} does not predict noise; use stable-diffusion-2-1-base."
        )
    unet, vae = (frozen(network, device) for network in (pipeline.unet, pipeline.vae))
    return StableDiffusion(unet, vae, prompt.to(device), pipeline.scheduler.config)


def untrained_stable_diffusion(unet: Mapping[str, Any] = UNET) -> StableDiffusion:
    """A Stable Diffusion of the size of 2.1-base on torch's device "meta", without weights, to count
    operations. Raises MissingExtra.
    """
    with optional_packages(EXTRA, NEED):
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    with torch.device("meta"):
        noise_predictor, vae = UNet2DConditionModel(**unet), AutoencoderKL(**VAE)
        prompt = torch.zeros(1, PROMPT_TOKENS, unet["cross_attention_dim"])
    scheduler: Any = DDIMScheduler(**NOISE)
    return StableDiffusion(frozen(noise_predictor, "meta"), frozen(vae, "meta"), prompt, scheduler.config)


def frozen(network: Any, device: str) -> Any:
    """The network in evaluation mode on a device, without gradients of its parameters."""
    return network.to(device).eval().requires_grad_(False)


def _from_pretrained(kind: Any, name: str) -> Any:
    """Load from a folder or the cache, or else from the Hugging Face Hub, which may take a while to fail."""
    options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    try:
        return kind.from_pretrained(name, local_files_only=True, **options)
    except OSError:
        if Path(name).is_dir():
            raise
        return kind.from_pretrained(name, **options)


@contextmanager
def _silence() -> Iterator[None]:
    """Without diffusers' and transformers' own messages and progress bars."""
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    levels = logging.get_verbosity(), transformers_logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(levels[0])
            logging.enable_progress_bar()
            transformers_logging.set_verbosity(levels[1])
            transformers_logging.enable_progress_bar()
