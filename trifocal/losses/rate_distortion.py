"""Rate, squared error, and their Lagrangian."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trifocal.types import MAX_LEVEL, Output, PartialTile
from trifocal.utils.arrays import log_spaced

LAMBDA_RANGE = (0.0012, 0.25)


def quality_lambda(level: Tensor, limits: tuple[float, float] = LAMBDA_RANGE) -> Tensor:
    """λ of a quality level, [B] → [B]: log-spaced between the limits (DCVC-UF, training recipe)."""
    weight: Tensor = log_spaced(level, MAX_LEVEL, limits)
    return weight


def bits_per_pixel(output: Output, x: Tensor) -> Tensor:
    """Bits over the number of pixels, [B]."""
    return output.bits / (x.shape[-2] * x.shape[-1])


def mean_squared_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """Images [B, 3, H, W] in 0..1 → their mean squared error on the 0..255 scale, [B]."""
    return 255**2 * (x_hat.float() - x).square().flatten(1).mean(1)


def rate_distortion(output: Output, x: Tensor, level: Tensor) -> Tensor:
    """bpp + λ · MSE of each image, [B], with the MSE on the 0..255 scale (the λ of Ballé et al. 2018)."""
    return bits_per_pixel(output, x) + quality_lambda(level) * mean_squared_error(output.x_hat, x)


def level_weight(level: Tensor, exponent: float = 0.45, limits: tuple[float, float] = LAMBDA_RANGE) -> Tensor:
    """λ^−exponent, normalised to 1 at the middle level, [B] → [B].

    The rate–distortion cost grows about as λ^exponent, so this weight makes all quality levels count equally.
    """
    middle = quality_lambda(torch.full_like(level, MAX_LEVEL // 2), limits)
    return (quality_lambda(level, limits) / middle) ** -exponent


def crop_weight(
    level: Tensor,
    limits: tuple[float, float] = LAMBDA_RANGE,
    partial: Sequence[PartialTile | None] | None = None,
) -> Tensor:
    """`level_weight` of the crops of a batch, [B].

    Missing positions have the error of the base layer at every level, so the cost of a crop with missing
    parts grows about as λ; the exponent 1 makes all levels count equally there too.
    """
    weight = level_weight(level, limits=limits)
    if partial is None:
        return weight
    incomplete = [tile is not None and bool(tile.missing) for tile in partial]
    return torch.where(
        torch.tensor(incomplete, device=level.device), level_weight(level, 1.0, limits), weight
    )


def spread_levels(count: int, device: torch.device, power: float = 1.0) -> Tensor:
    """Random quality levels, one from each of `count` equal parts of the range, in random order: [count].

    A power above 1 draws low levels more often: the share of levels below a fraction f of the range is
    f^(1/power).
    """
    place = (torch.randperm(count, device=device) + torch.rand(count, device=device)) / count
    return (place**power * (MAX_LEVEL + 1)).long().clamp(max=MAX_LEVEL)
