"""The image tower: a small network that knows what is where, trained here with the compact text tower.

Losses compare its features, words are looked for in them, and pictures are found by captions through them. Its recipe is
`trifocal/training/image_text_model.py`; `trifocal/weights/towers.json` says what it was trained on and what it is worth.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.layers import SpaceToDepth
from trifocal.weights import FOLDER, load_part

EMBEDDING = 256
STRIDE = 16
SIDE = 208  # pixels of the squares that it was trained on: parts of pictures, and whole ones
MEAN, DEVIATION = 0.45, 0.27  # of photographs' values in 0..1, roughly


@dataclass(frozen=True)
class ImageFeatures:
    """What the tower says of B pictures.

    Attributes:
        stages: features at 1/4, 1/8 and 1/16 of the picture's sides, each [B, h, w, C].
        places: the last of them in the space of the words, [B, H/16, W/16, D], of length 1.
        pooled: the whole picture in that space, [B, D], of length 1.
    """

    stages: tuple[Tensor, ...]
    places: Tensor
    pooled: Tensor


class Wide(nn.Module):
    """x + project(gelu(expand(norm(depthwise 7×7)))), channels-last (Liu et al., "A ConvNet for the 2020s", 2022)."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, expansion * channels)
        self.project = nn.Linear(expansion * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.project(F.gelu(self.expand(self.norm(y))))


class ImageEncoder(nn.Module):
    """x [B, 3, H, W] in 0..1 → ImageFeatures.

    Args:
        widths: channels at 1/4, 1/8 and 1/16.
        depths: blocks at each.
        expansion: of the blocks.
        embedding: D.
    """

    def __init__(
        self,
        widths: tuple[int, int, int] = (32, 96, 256),
        depths: tuple[int, int, int] = (1, 2, 6),
        expansion: int = 2,
        embedding: int = EMBEDDING,
    ) -> None:
        super().__init__()
        self.widths = widths
        inputs = (3 * 16, 4 * widths[0], 4 * widths[1])
        self.downs = nn.ModuleList(
            [
                nn.Sequential(
                    SpaceToDepth(4 if place == 0 else 2), nn.Linear(given, width), nn.LayerNorm(width)
                )
                for place, (given, width) in enumerate(zip(inputs, widths))
            ]
        )
        self.blocks = nn.ModuleList(
            [nn.Sequential(*[Wide(w, expansion) for _ in range(d)]) for w, d in zip(widths, depths)]
        )
        self.norm = nn.LayerNorm(widths[-1])
        self.place = nn.Linear(widths[-1], embedding)
        self.attention = nn.Linear(widths[-1], 4)
        self.whole = nn.Linear(4 * widths[-1], embedding)

    def forward(self, x: Tensor) -> ImageFeatures:
        """H and W are filled up to multiples of 16 with the last row and column."""
        x = F.pad(x, (0, -x.shape[3] % STRIDE, 0, -x.shape[2] % STRIDE), mode="replicate")
        y = (x.permute(0, 2, 3, 1) - MEAN) / DEVIATION
        stages = []
        for down, blocks in zip(self.downs, self.blocks):
            y = blocks(down(y))
            stages.append(y)
        y = self.norm(y)
        return ImageFeatures(
            tuple(stages),
            F.normalize(self.place(y), dim=-1),
            F.normalize(self.whole(self._pool(y)), dim=-1),
        )

    def _pool(self, y: Tensor) -> Tensor:
        """[B, h, w, C] → [B, 4·C]: four weighted means over the places, with weights that they give themselves."""
        places = y.flatten(1, 2)
        weights = self.attention(places).softmax(dim=1)
        return torch.einsum("bpc,bpk->bkc", places, weights).flatten(1)


@lru_cache(maxsize=2)
def load_image_encoder(device: str = "cpu") -> ImageEncoder:
    """The tower with its trained weights, frozen. Raises WeightsError if they are missing or damaged."""
    tower = ImageEncoder()
    tower.load_state_dict(load_part(FOLDER / "towers.safetensors", "image."))
    return tower.to(device).eval().requires_grad_(False)
