"""The 16×16 DCT in an orthonormal colour space, to which analysis and synthesis are initialised."""

import math

import torch
from torch import Tensor

BLOCK = 16


def colour_matrix() -> Tensor:
    """Orthonormal rows: luma (R+G+B), red–blue, green–magenta; [3, 3]. The squared error in
    this space equals that in RGB.
    """
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
    return rows / rows.norm(dim=1, keepdim=True)


def dct_matrix(size: int) -> Tensor:
    """The orthonormal DCT-II, [size, size], one row per frequency."""
    n = torch.arange(size)
    matrix = torch.cos(math.pi * (2 * n[None, :] + 1) * n[:, None] / (2 * size)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def block_transform(size: int) -> Tensor:
    """The colour DCT of a size×size block as one orthonormal matrix, [3·size², size²·3].

    Rows are ordered by `coefficient_order`; columns as `space_to_depth` orders a block: (row, column,
    colour).
    """
    basis = torch.einsum("kc,ui,vj->kuvijc", colour_matrix(), dct_matrix(size), dct_matrix(size))
    return basis.reshape(3 * size * size, size * size * 3)[coefficient_order(size)]


def coefficient_order(size: int) -> Tensor:
    """Indices into (colour, row, column) by decreasing energy, [3·size²]."""
    return torch.argsort(coefficient_std(size).flatten(), descending=True, stable=True)


def coefficient_std(size: int) -> Tensor:
    """Standard deviation of each coefficient for natural images on a 0..255 scale, [3, size, size].

    log std = a − b·√f, f the radial frequency in half cycles per 16 pixels, with a separate constant term; a,
    b and that term are fitted to 300 training photographs (largest error a factor of 2.4).
    """
    f = torch.arange(size) * (16 / size)
    radius = (f[:, None] ** 2 + f[None, :] ** 2).sqrt()
    fits = [(1966.0, 6.20, 1.02), (687.0, 5.36, 1.25), (390.0, 4.33, 1.05)]
    std = torch.stack([torch.exp(a - b * radius.sqrt()) for _, a, b in fits])
    std[:, 0, 0] = torch.tensor([constant for constant, _, _ in fits]) * size / 16
    return std


def ordered_std(size: int, count: int) -> Tensor:
    """`coefficient_std` of the `count` coefficients of highest energy, in that order, [count]."""
    return coefficient_std(size).flatten()[coefficient_order(size)][:count]
