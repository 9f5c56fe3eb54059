"""The bundled image encoder, trained together with the bundled text encoder.

Its features serve perceptual losses, the grounding of text, and retrieval by captions.
`trifocal/training/image_text_model.py` has the training; `trifocal/weights/towers.json` records its data and
results.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.detection.input_size import ENCODER_STRIDE
from trifocal.layers import SpaceToDepth
from trifocal.weights import WEIGHTS_FOLDER, load_part

EMBEDDING = 256
STRIDE = ENCODER_STRIDE
SIDE = 208  # pixels of the training images: crops, and whole images, resized to squares
MEAN, DEVIATION = 0.45, 0.27  # of the values of photographs in 0..1, approximately


@dataclass(frozen=True)
class ImageFeatures:
    """Features of B images.

    Attributes:
        feature_maps: features at 1/4, 1/8 and 1/16 of the image's sides, [B, h, w, C] each.
        local: embeddings of the positions in the space of the text encoder, [B, H/16, W/16, D],
            L2-normalised.
        pooled: the embedding of the whole image in that space, [B, D], L2-normalised.
    """

    feature_maps: tuple[Tensor, ...]
    local: Tensor
    pooled: Tensor


class ConvNextBlock(nn.Module):
    """A ConvNeXt block (Liu et al., "A ConvNet for the 2020s", 2022): [B, H, W, C] → same.

    x + project(gelu(expand(norm(depthwise 7×7(x)))))
    """

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
        depths: number of blocks at each resolution.
        expansion: ratio of hidden to outer channels of a block.
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
            [nn.Sequential(*[ConvNextBlock(w, expansion) for _ in range(d)]) for w, d in zip(widths, depths)]
        )
        self.norm = nn.LayerNorm(widths[-1])
        self.place = nn.Linear(widths[-1], embedding)
        self.attention = nn.Linear(widths[-1], 4)
        self.whole = nn.Linear(4 * widths[-1], embedding)

    def forward(self, x: Tensor) -> ImageFeatures:
        """x [B, 3, H, W] in 0..1; its last row and column are repeated up to multiples of 16."""
        x = F.pad(x, (0, -x.shape[3] % STRIDE, 0, -x.shape[2] % STRIDE), mode="replicate")
        y = (x.permute(0, 2, 3, 1) - MEAN) / DEVIATION
        feature_maps = []
        for down, blocks in zip(self.downs, self.blocks):
            y = blocks(down(y))
            feature_maps.append(y)
        y = self.norm(y)
        return ImageFeatures(
            tuple(feature_maps),
            F.normalize(self.place(y), dim=-1),
            F.normalize(self.whole(self._pool(y)), dim=-1),
        )

    def _pool(self, y: Tensor) -> Tensor:
        """Attention pooling with four heads: [B, h, w, C] → [B, 4·C]."""
        positions = y.flatten(1, 2)
        weights = self.attention(positions).softmax(dim=1)
        return torch.einsum("bpc,bpk->bkc", positions, weights).flatten(1)


@lru_cache(maxsize=2)
def load_image_encoder(device: str = "cpu") -> ImageEncoder:
    """The frozen encoder with its trained weights. Raises WeightsError if they are missing or damaged."""
    encoder = ImageEncoder()
    encoder.load_state_dict(load_part(WEIGHTS_FOLDER / "towers.safetensors", "image."))
    return encoder.to(device).eval().requires_grad_(False)
