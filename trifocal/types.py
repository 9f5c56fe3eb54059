"""What passes between the rooms, and the legend of letters.

    x       picture, [B, 3, H, W], 0..1                x_hat   the decoder's picture
    y       latent, [B, H/16, W/16, M]                 y_hat   what the decoder has of it
    z       hyper-latent, [B, H/64, W/64, Z]           z_hat   the same, rounded
    mean, scale_index   what the entropy model says of a latent: mean, and row of the frequency tables
    level   quality · 8, an integer in 0..800, [B]

Feature maps and latents are channels-last, since every network of the road is made of matrix products over channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from trifocal.pictures import Picture

MAX_LEVEL = 800
LEVELS_PER_QUALITY = 8


@dataclass(frozen=True)
class Output:
    """What `Codec.forward` returns: x_hat [B, 3, H, W]; y_hat [B, h, w, M]; bits for each picture, [B]."""

    x_hat: Tensor
    y_hat: Tensor
    bits: Tensor


@dataclass(frozen=True)
class Decoded:
    """A decoded picture, and the numbers of the tiles that were damaged (only with `best_effort`)."""

    picture: Picture
    damaged: tuple[int, ...] = field(default=())
