"""A generator of missing latents, and what its training and evaluation share.

Shapes: B images of h × w latent positions of 16 × 16 pixels, M = 384 latent channels, C = 192 hyper features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import trifocal
from trifocal.codecs.rate_control import default_base_quality
from trifocal.entropy.coder import RateEstimator
from trifocal.entropy.latent_coding import code_side_information, code_values
from trifocal.transforms.composition import (
    BLOCKS,
    FEATURES,
    LATENT_CHANNELS,
    MIDDLE_LEVEL,
    WIDTH,
    CompositionBlock,
)
from trifocal.types import Condition

NOISE = 32  # channels
FEATURE_SCALE = 64.0  # divides the hyper features
HELD_OUT = 40  # first items of the cache, which training leaves out


class Generator(nn.Module):
    """Predicts missing latents in one step: `Composition`, with noise as an input. Untrained, it adds 0.

    Args:
        std: standard deviation of each latent channel, [M].
        width: channels of the blocks.
    """

    std: Tensor

    def __init__(self, std: Tensor, width: int = WIDTH) -> None:
        super().__init__()
        self.register_buffer("std", std.clone(), persistent=False)
        self.stem = nn.Conv2d(2 * LATENT_CHANNELS + FEATURES + 2 + NOISE, width, 1)
        blocks = [CompositionBlock(width) for _ in range(BLOCKS)]
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Conv2d(width, LATENT_CHANNELS, 1)
        for layer in (self.head, *(block.b for block in blocks)):
            assert layer.bias is not None
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, known: Tensor, kept: Tensor, preview: Tensor, features: Tensor, level: Tensor, noise: Tensor
    ) -> Tensor:
        """Latents [B, h, w, M]: the known ones where kept, generated ones elsewhere.

        Args:
            known: decoded latents, [B, h, w, M]; values at missing positions are not used.
            kept: bool, [B, h, w].
            preview: latent of the preview, [B, h, w, M].
            features: hyper features, [B, h, w, C].
            level: quality level 0..800, [B].
            noise: standard normal, [B, h, w, NOISE].
        """
        mask = kept[..., None].to(preview.dtype)
        gain = (level.float() / MIDDLE_LEVEL - 1)[:, None, None, None].expand_as(mask)
        inputs = (known / self.std * mask, preview / self.std, features / FEATURE_SCALE, mask, gain, noise)
        x = self.stem(torch.cat(inputs, -1).permute(0, 3, 1, 2))
        for block in self.blocks:
            x = block(x)
        added = self.head(F.silu(x)).float().permute(0, 2, 3, 1) * self.std
        return torch.where(kept[..., None], known, preview + added)


class Latents(NamedTuple):
    """What the generator reads of an image, and its preview."""

    latent: Tensor  # decoded, with the prediction from the preview, [h, w, M]
    preview: Tensor  # latent of the preview, [h, w, M]
    features: Tensor  # hyper features, [h, w, C]
    pixels: Tensor  # of the preview, [3, H, W], about 0..1


def load_network() -> Any:
    """The network of `dual-layer-compact`, in torch, without gradients."""
    codec: Any = trifocal.load("dual-layer-compact", engine="torch")
    return codec.network.eval().requires_grad_(False)


@torch.no_grad()
def code(network: Any, image: Tensor, level: int, small: tuple[int, int] | None = None) -> Latents:
    """Decoded latents of an image, computed without a file.

    Args:
        image: RGB, 0..1, [1, 3, H, W]; H and W are multiples of 64.
        small: width and height of the base layer, which is then encoded by its codec; None simulates it.
    """
    levels = torch.tensor([level])
    if small is None:
        preview, _ = network.simulate_base_layer(image, levels)
    else:
        preview, _ = network._preview(image, [small[1], small[0]], default_base_quality(levels))
    condition = Condition(preview=preview)
    y = network.analyse(image, condition)
    networks, numbers = network.entropy.arrays(), levels.numpy()
    coder = RateEstimator(network.entropy.cost(), 1)
    side = code_side_information(networks, coder, y.numpy(), numbers, (y.shape[1], y.shape[2]), True)
    values = side.unscale(networks, code_values(networks, coder, side, numbers), numbers)
    decoded = torch.as_tensor(np.asarray(values)).float()
    features = torch.as_tensor(np.asarray(side.features)).float().reshape(*decoded.shape[:3], -1)
    prediction = network.preview_latent(condition)
    latent = decoded + prediction * network.trust
    return Latents(latent[0], prediction[0], features[0], preview.pixels()[0])


def export_generator(checkpoint: Path, out: Path) -> None:
    """Write the averaged weights of a checkpoint as float16 safetensors."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["ema"]
    save_file({name: value.half().contiguous() for name, value in state.items()}, out)


def load_generator(weights: Path, network: Any) -> Generator:
    """The generator of exported weights."""
    state = {name: value.float() for name, value in load_file(weights).items()}
    generator = Generator(network.synthesis.std, len(state["stem.bias"]))
    generator.load_state_dict(state)
    return generator.eval()
