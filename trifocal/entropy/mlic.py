"""MLIC++'s context model: slices of channels, each coded in two checkerboard passes.

Local and global attentions predict them (`mlic_attention.py`).

W. Jiang and R. Wang, "MLIC++: Linear Complexity Multi-Reference Entropy Modeling for Learned Image
Compression" (2023, arXiv 2307.15421); sizes as in its published code.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from trifocal.entropy.checkerboard import CheckerboardContext, take_checkerboard
from trifocal.entropy.context import LevelParameters
from trifocal.entropy.gain import Gain
from trifocal.entropy.hyperprior import EntropyModel, ExactNetworks, Prior
from trifocal.entropy.integer_networks import Clamp
from trifocal.entropy.mlic_attention import GlobalInterContext, GlobalIntraContext, LocalContext
from trifocal.layers import Conv
from trifocal.transforms.mlic import mlic_hyper_analysis, mlic_hyper_synthesis

__all__ = ["MlicContext", "MlicWidths", "mlic_hyperprior"]

RESIDUAL_BITS = 8  # a residual is a multiple of 2^−8 of a quantiser step


@dataclass(frozen=True)
class MlicWidths:
    """Channels inside the networks of a slice.

    Attributes:
        channel: between the convolutions of the channel context.
        parameters: between the 1×1 layers that predict mean and scale.
        residual: between the convolutions of the latent residual prediction.
    """

    channel: tuple[int, int] = (192, 128)
    parameters: tuple[int, int, int] = (320, 256, 128)
    residual: tuple[int, int] = (224, 128)


PUBLISHED = MlicWidths()


class MlicContext(CheckerboardContext):
    """Two passes per slice: its anchors, then the non-anchors; after each, a prediction of the rounding
    error.

        anchors            features ─────────────────────────────── cat ── four layers ── mean, scale index
        and non-anchors    all slices before ── 3×3, 3×3, 3×3 ───────┤
                           all slices before ── global attention ────┤
        non-anchors only   this slice's anchors ── 5×5 attention ────┤
                           and the slice before ── global attention ─┘

        half of the features, y_hat so far ── 3×3, 3×3, 3×3 ── ½·tanh ── + y_hat

    The global attentions see what is coded at once, a tile of at most 1024 × 1024 pixels; in the paper they
    see the whole image, and larger images differ in this.

    Other differences from the paper and its code:
        - A logistic and a row of the integer tables instead of a Gaussian, and one model for all rates, as in
          `ElicContext`. The residual is predicted in quantiser steps.
        - The windows' positions attend to anchors only; see `LocalContext`.
        - No state is kept between passes, so channel and inter-slice contexts are computed in both of them.

    Args:
        latent_channels: M.
        slices: their number; must divide M.
        step_sizes: quantiser step at each quality knot, [K], in units of y.
        widths: channels inside the networks.
        odd_anchors: whether row + column of the anchors is odd, as in the published code.
    """

    def __init__(
        self,
        latent_channels: int,
        slices: int,
        step_sizes: Tensor,
        widths: MlicWidths = PUBLISHED,
        odd_anchors: bool = True,
    ) -> None:
        m, c = latent_channels, latent_channels // slices
        super().__init__([c] * slices, step_sizes, odd_anchors)
        self.latent_channels = m
        later = range(1, slices)
        self.channel = nn.ModuleList(convolutions(n * c, *widths.channel, 4 * c) for n in later)
        self.inter = nn.ModuleList(GlobalInterContext(c, n) for n in later)
        self.local = nn.ModuleList(LocalContext(c, odd_anchors) for _ in range(slices))
        self.intra = nn.ModuleList(GlobalIntraContext(c, odd_anchors) for _ in later)
        self.anchor_parameters = nn.ModuleList(
            perceptron(2 * m + (6 * c if n else 0), *widths.parameters, 2 * c) for n in range(slices)
        )
        self.other_parameters = nn.ModuleList(
            perceptron(2 * m + (10 * c if n else 2 * c), *widths.parameters, 2 * c) for n in range(slices)
        )
        self.residuals = nn.ModuleList(
            convolutions(m + (pass_index // 2 + 1) * c, *widths.residual, c)
            for pass_index in range(self.passes)
        )
        self.tanh = nn.Tanh()
        self.snap = Clamp(RESIDUAL_BITS, bound=0.5)
        self.of_level = LevelParameters(step_sizes, m)

    def forward(
        self, pass_index: int, features: Tensor, y_hat: Tensor, level: Tensor
    ) -> tuple[Tensor, Tensor]:
        number, is_non_anchor = divmod(pass_index, 2)
        own = self.groups[number]
        decoded = self.decoded_groups(pass_index, y_hat, level)
        before, here = decoded[..., : own.start], decoded[..., own]
        parts = [features]
        if number:
            parts += [self.channel[number - 1](before), self.inter[number - 1](before)]
        if is_non_anchor:
            parts.append(self.local[number](here))
        if number and is_non_anchor:
            parts.append(self.intra[number - 1](decoded[..., self.groups[number - 1]], here))
        inputs = take_checkerboard(torch.cat(parts, dim=-1), self.is_odd(pass_index))
        raw = (self.other_parameters if is_non_anchor else self.anchor_parameters)[number](inputs)
        return cast(tuple[Tensor, Tensor], self.of_level(raw, level, own))

    def residual(self, pass_index: int, features: Tensor, y_hat: Tensor, level: Tensor) -> Tensor:
        means = features[..., : self.latent_channels]
        decoded = self.decoded_groups(pass_index, y_hat, level)
        predicted = self.tanh(self.residuals[pass_index](torch.cat([means, decoded], dim=-1)))
        return self.put(self.snap(take_checkerboard(predicted, self.is_odd(pass_index)) / 2), pass_index)


def convolutions(inputs: int, first: int, second: int, outputs: int) -> nn.Sequential:
    """Three 3×3 convolutions with GELU between them."""
    return nn.Sequential(
        Conv(inputs, first, 3), nn.GELU(), Conv(first, second, 3), nn.GELU(), Conv(second, outputs, 3)
    )


def perceptron(*widths: int) -> nn.Sequential:
    """1×1 layers of these widths with GELU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def mlic_hyperprior(
    channels: int, latent_channels: int, slices: int, step_sizes: Tensor, widths: MlicWidths = PUBLISHED
) -> EntropyModel:
    """MLIC++'s entropy model: its hyperprior, with N channels of z, and `MlicContext`.

    The prior of z has a mean and a scale per channel and quality, where the paper has an entropy bottleneck.

    Args:
        channels: N.
        latent_channels, slices, step_sizes, widths: as in `MlicContext`.
    """
    return EntropyModel.from_parts(
        Gain(step_sizes, latent_channels),
        mlic_hyper_analysis(channels, latent_channels),
        ExactNetworks(
            Prior(channels, len(step_sizes)),
            mlic_hyper_synthesis(channels, latent_channels),
            MlicContext(latent_channels, slices, step_sizes, widths),
        ),
    )
