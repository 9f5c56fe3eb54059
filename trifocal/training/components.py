"""Random components of training crops, of which some are missing.

DISCOVER sets 0 to 50 % of y_hat to zero in its second training stage. Here a crop is coded as a file is: in
components, each in its own context window, and without the rest where a component is missing. The components
that a decoder lacks are never a random half of the latent: partial files are made to send objects first, so
the rest is missing, and 0 to 50 % of the objects.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trifocal.codecs.components import component_at
from trifocal.codecs.network import CodecNetwork
from trifocal.codecs.tile_coding import tile_parts
from trifocal.container.components import MAX_COMPONENTS, REST, Component, ComponentLayout
from trifocal.errors import OptionError
from trifocal.losses import mean_squared_error
from trifocal.presets import Preset
from trifocal.recipes import Recipe
from trifocal.training.validation import LEVELS, HeldOut
from trifocal.types import LATENT_STRIDE, TILE, PartialTile

__all__ = [
    "check_components_recipe",
    "object_components",
    "partial_crop",
    "partial_crops",
    "position_errors",
    "random_squares",
    "validate_partial",
]

LARGEST_MISSING = 0.5  # share of a crop's components
MOST_SQUARES, SMALLEST_SQUARE = 3, 2  # of crops without objects; side in latent positions
MISSING_NAMES = ("present", "missing")


def check_components_recipe(preset: Preset, recipe: Recipe) -> None:
    """Raises OptionError for a recipe with components that the preset or its crops cannot have."""
    if not recipe.missing_components:
        return
    if not preset.has_base_layer:
        raise OptionError(
            f"{preset.name} has no base layer, and so no components; leave out missing_components."
        )
    if recipe.crop > TILE:
        raise OptionError(f"missing_components needs crops of at most {TILE} pixels, not {recipe.crop}.")


def partial_crops(
    boxes: Sequence[NDArray[np.float32]], size: int, share: float
) -> tuple[PartialTile | None, ...] | None:
    """Components and missing ones for a share of the crops of a batch, None for the others; None for a share
    of 0. torch's random numbers decide.

    Args:
        boxes: of the objects of each crop, x0, y0, x1, y1 in its pixels, [N, 4].
        size: side of the crops in pixels, at most TILE.
        share: 0..1. The mean number of crops is exact: 0.5 of 3 crops is 1 or 2.
    """
    if not share:
        return None
    random = np.random.default_rng(int(torch.randint(1 << 31, ())))
    count = int(share * len(boxes) + random.random())
    chosen = set(random.permutation(len(boxes))[:count].tolist())
    return tuple(
        partial_crop(own, size, size, random) if row in chosen else None for row, own in enumerate(boxes)
    )


def partial_crop(
    boxes: NDArray[np.float32], width: int, height: int, random: np.random.Generator
) -> PartialTile:
    """A crop's objects as components, or random squares if it has none; the rest is missing, and each
    component with a probability that is drawn from 0..0.5.

    Args:
        boxes: of the objects, x0, y0, x1, y1 in the crop's pixels, [N, 4].
        width, height: of the crop in pixels, at most TILE.
        random: draws.
    """
    components = object_components(boxes, width, height) or random_squares(min(width, height), random)
    tile = tile_parts(ComponentLayout(components, width, height), 0)
    probability = LARGEST_MISSING * random.random()
    missing = frozenset(part for part in tile.components if random.random() < probability)
    return PartialTile(tile.numbers, tile.parts, missing | ({REST} & {*tile.parts}))


def object_components(boxes: NDArray[np.float32], width: int, height: int) -> tuple[Component, ...]:
    """The objects of an image of that width and height as components, each box of positions once.

    Args:
        boxes: x0, y0, x1, y1 in pixels, [N, 4].
    """
    objects = (component_at("object", box, width, height) for box in boxes.tolist())
    return tuple(dict.fromkeys(one for one in objects if one is not None))[:MAX_COMPONENTS]


def random_squares(size: int, random: np.random.Generator) -> tuple[Component, ...]:
    """One to three squares, which may overlap."""
    positions = size // LATENT_STRIDE
    squares = []
    for _ in range(random.integers(1, MOST_SQUARES + 1)):
        side = int(random.integers(SMALLEST_SQUARE, positions + 1))
        x, y = (int(random.integers(positions - side + 1)) for _ in range(2))
        squares.append(Component("square", (x, y, x + side, y + side)))
    return tuple(dict.fromkeys(squares))


def position_errors(x_hat: Tensor, x: Tensor, tile: PartialTile) -> dict[str, float]:
    """Mean squared error at the present and the missing positions of an image, on the 0..255 scale, for those
    of the two kinds that it has.

    Args:
        x_hat, x: [3, H, W] in 0..1.
        tile: of the image.
    """
    missing = np.isin(tile.numbers, list(tile.missing)).repeat(LATENT_STRIDE, 0).repeat(LATENT_STRIDE, 1)
    here = torch.from_numpy(missing).to(x.device)
    kinds = zip(MISSING_NAMES, (~here, here))
    return {
        name: float(mean_squared_error(x_hat[None, :, where], x[None, :, where]))
        for name, where in kinds
        if where.any()
    }


@torch.no_grad()
def validate_partial(
    network: CodecNetwork, held_out: HeldOut, only_level: int | None = None
) -> dict[str, float]:
    """Squared error of held-out crops with missing components, the same ones each time, as decoded from files
    without text.

    Args:
        network: the network of a codec, in float32.
        held_out: the crops, with boxes.
        only_level: of a single-rate model.

    Returns:
        `present_mse` and `missing_mse`: at positions of the two kinds, means over crops and levels.
    """
    network.eval()
    random, device = np.random.default_rng(0), network.device
    size, x = held_out.x.shape[-1], held_out.x.to(device)
    partial = [partial_crop(boxes.cpu().numpy(), size, size, random) for boxes in held_out.boxes]
    errors: dict[str, list[float]] = {name: [] for name in MISSING_NAMES}
    for number in LEVELS if only_level is None else (only_level,):
        level = torch.full((len(x),), number, device=device)
        for x_hat, own, tile in zip(network(x, level, partial=partial).x_hat, x, partial, strict=True):
            for name, error in position_errors(x_hat, own, tile).items():
                errors[name].append(error)
    network.train()
    return {f"{name}_mse": round(float(np.mean(values)), 3) for name, values in errors.items() if values}
