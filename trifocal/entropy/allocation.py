"""Where the bits go: a coarse map of how much finer than on the whole each place is coded, sent in front of the latent.

The map has a value for every 64×64 pixels, in quarters of an octave of the quantiser's step, and is coded without loss:
second differences along rows and columns (zero but at the corners of things), with one table for all of them that is
named in front. A map of zeros costs one symbol.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trifocal.entropy.coder import Coder
from trifocal.entropy.tables import ROWS_PER_OCTAVE
from trifocal.errors import Damaged

QUARTERS = 4
LARGEST = 8  # quarters of an octave to each side
CELL = 4  # latents to a side
ROW_OF_NAME = 30  # of the table for the name of the other table
OCTAVES = 7
MEAN_TO_ROW = 4.0  # octave o stands for a mean magnitude of about 2^(o−4)


def code_allocation(
    coder: Coder, importance_map: Tensor | None, size: tuple[int, int], device: torch.device | str = "cpu"
) -> Tensor:
    """Codes the map and gives the factor that both sides put around the quantiser.

    Args:
        coder: a Meter, a Writer or a Reader.
        fineness: octaves, [B, h, w, 1], or None for a Reader.
        size: h and w, multiples of 4.
        device: where the factor is wanted, and the fineness is.

    Returns:
        2^fineness as the decoder knows it, smooth between the cells, [B, h, w, 1], positive.

    Raises:
        Damaged: if a Reader finds numbers that a Writer does not write.
    """
    batch = 1 if importance_map is None else len(importance_map)
    shape = (batch, size[0] // CELL, size[1] // CELL, 1)
    differences = None if importance_map is None else _differences(_quarters(importance_map))
    zero = torch.zeros(batch, 1, 1, 1, dtype=torch.float64, device=device)
    name = None if differences is None else _name(differences)
    octave = coder.code(name, zero, zero + ROW_OF_NAME)
    _check_range(octave, 0, OCTAVES)
    row = (octave * ROWS_PER_OCTAVE).expand(shape)
    found = coder.code(differences, zero.expand(shape), row)
    quarters = found.cumsum(1).cumsum(2).float()
    _check_range(quarters, -LARGEST, LARGEST)
    smooth = F.interpolate(
        quarters.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False
    ).permute(0, 2, 3, 1)
    return torch.exp2(smooth / QUARTERS)


def _check_range(values: Tensor, low: int, high: int) -> None:
    """Rounds first, since in training the values are integers but for their last place."""
    rounded = torch.round(values)
    if bool(((rounded < low) | (rounded > high)).any()):
        raise Damaged("The map of where the bits go is out of its range; the file is damaged.")


def _quarters(importance_map: Tensor) -> Tensor:
    """[B, h, w, 1] → the cells' means in whole quarters, [B, h/4, w/4, 1]."""
    cells = F.avg_pool2d(importance_map.permute(0, 3, 1, 2), CELL).permute(0, 2, 3, 1)
    return torch.round(QUARTERS * cells.double()).clamp(-LARGEST, LARGEST)


def _differences(quarters: Tensor) -> Tensor:
    """Whose sums along rows and columns are the map again."""
    along = torch.diff(quarters, dim=2, prepend=torch.zeros_like(quarters[:, :, :1]))
    return torch.diff(along, dim=1, prepend=torch.zeros_like(along[:, :1]))


def _name(differences: Tensor) -> Tensor:
    """0 where all are zero, else the octave of the table that suits their mean magnitude, [B, 1, 1, 1]."""
    mean = differences.abs().mean(dim=(1, 2, 3), keepdim=True)
    octave = torch.round(torch.log2(mean.clamp(min=2.0**-12)) + MEAN_TO_ROW).clamp(1, OCTAVES)
    return torch.where(mean > 0, octave, torch.zeros_like(mean))
