"""SSIMULACRA2 (Sneyers 2022) as a differentiable loss.

Two images are compared in the XYB colour space at six scales. At each scale every colour plane gives three
error maps: structure (SSIM without the denominator of its luminance term), added edges and lost edges. Each
map enters with its mean and its 4-norm. The published weights sum the 108 numbers to S, which is 0 for equal
images; the score, 100 for equal images, is a decreasing function of S whose slope is infinite at 0. Training
therefore minimises S.

Borders of the Gaussian blur follow the package `ssimulacra2`: mirrored pixels above and below, zeros left and
right.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.errors import OptionError
from trifocal.losses.blur import convolve, gaussian

__all__ = ["Ssimulacra2", "ssimulacra2_score"]

SCALES = 6
SMALLEST_SIDE = 8  # pixels; coarser scales are left out
SIGMA, RADIUS = 1.5, 5
C2 = 0.0009
OPSIN = (
    (0.30, 0.622, 0.078),
    (0.23, 0.692, 0.078),
    (0.24342268924547819, 0.20476744424496821, 0.55180986650955360),
)
OPSIN_BIAS = 0.0037930732552754493
FLOOR = 1e-24  # of a mean fourth power: below, the 4-norm has no gradient

# By plane (X, Y, B), scale, norm (mean, 4-norm) and map (structure, added edges, lost edges): one row per
# plane and scale. fmt: off
WEIGHTS = (
    0,
    0.0007376606707406586,
    0,
    0,
    0.0007793481682867309,
    0,
    0,
    0.0004371155730107379,
    0,
    1.1041726426657346,
    0.00066284834129271,
    0.00015231632783718752,
    0,
    0.0016406437456599754,
    0,
    1.8422455520539298,
    11.441172603757666,
    0,
    0.0007989109436015163,
    0.000176816438078653,
    0,
    1.8787594979546387,
    10.94906990605142,
    0,
    0.0007289346991508072,
    0.9677937080626833,
    0,
    0.00014003424285435884,
    0.9981766977854967,
    0.00031949755934435053,
    0.0004550992113792063,
    0,
    0,
    0.0013648766163243398,
    0,
    0,
    0,
    0,
    0,
    7.466890328078848,
    0,
    17.445833984131262,
    0.0006235601634041466,
    0,
    0,
    6.683678146179332,
    0.00037724407979611296,
    1.027889937768264,
    225.20515300849274,
    0,
    0,
    19.213238186143016,
    0.0011401524586618361,
    0.001237755635509985,
    176.39317598450694,
    0,
    0,
    24.43300999870476,
    0.28520802612117757,
    0.0004485436923833408,
    0,
    0,
    0,
    34.77906344483772,
    44.835625328877896,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0.0008680556573291698,
    0,
    0,
    0,
    0,
    0,
    0.0005313191874358747,
    0,
    0.00016533814161379112,
    0,
    0,
    0,
    0,
    0,
    0.0004179171803251336,
    0.0017290828234722833,
    0,
    0.0020827005846636437,
    0,
    0,
    8.826982764996862,
    23.19243343998926,
    0,
    95.1080498811086,
    0.9863978034400682,
    0.9834382792465353,
    0.0012286405048278493,
    171.2667255897307,
    0.9807858872435379,
    0,
    0,
    0,
    0.0005130064588990679,
    0,
    0.00010854057858411537,
)
# fmt: on


class Ssimulacra2(nn.Module):
    """S of SSIMULACRA2: the weighted sum of all errors, before the polynomial that maps it to a score."""

    weights: Tensor
    opsin: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(WEIGHTS), persistent=False)
        self.register_buffer("opsin", torch.tensor(OPSIN), persistent=False)

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Images x_hat and x [B, 3, H, W] in 0..1, sRGB → S [B], 0 or more. x_hat is clamped to 0..1.

        Raises OptionError where a side is shorter than 8 pixels. Scales with a side below that are left out;
        the published program then takes the weights in order, and so does this.
        """
        if min(x.shape[-2:]) < SMALLEST_SIDE:
            raise OptionError(
                f"SSIMULACRA2 needs images of {SMALLEST_SIDE} pixels a side, not {min(x.shape[-2:])}."
            )
        errors: list[Tensor] = []
        with torch.autocast(x.device.type, enabled=False):  # differences of squares need their digits
            test, reference = linear_light(x_hat.float().clamp(0, 1)), linear_light(x.float())
            while len(errors) < SCALES and min(reference.shape[-2:]) >= SMALLEST_SIDE:
                errors.append(scale_errors(self._xyb(test), self._xyb(reference)))
                test, reference = halved(test), halved(reference)
            flat = torch.stack(errors, dim=2).flatten(1)  # plane, scale, norm and map
            return flat @ self.weights[: flat.shape[1]]

    def _xyb(self, linear: Tensor) -> Tensor:
        """Linear light [B, 3, H, W] → X, Y and B − Y, shifted and scaled so that they are positive."""
        mixed = torch.einsum("dc,bchw->bdhw", self.opsin, linear) + OPSIN_BIAS
        long, middle, short = (mixed.pow(1 / 3) - OPSIN_BIAS ** (1 / 3)).unbind(1)
        y = (long + middle) / 2
        return torch.stack([7 * (long - middle) + 0.42, y + 0.01, short - y + 0.55], dim=1)


def ssimulacra2_score(s: Tensor) -> Tensor:
    """S [B] → the published score [B]: 100 for equal images, 90 hardly visible, 70 high, 50 medium, 30 low
    quality."""
    s = 0.9562382616834844 * s
    polynomial = 2.326765642916932 * s - 0.020884521182843837 * s**2 + 6.248496625763138e-05 * s**3
    return 100 - 10 * polynomial.clamp(min=0).pow(0.6276336467831387)


def scale_errors(test: Tensor, reference: Tensor) -> Tensor:
    """XYB images [B, 3, H, W] → means of the three error maps, then their 4-norms, [B, 3, 6]."""
    test_mean, mean = blur(test), blur(reference)
    power, product = blur(test.square() + reference.square()), blur(test * reference)
    luminance = 1 - (test_mean - mean).square()
    contrast = (2 * (product - test_mean * mean) + C2) / (power - test_mean.square() - mean.square() + C2)
    edges = (1 + (test - test_mean).abs()) / (1 + (reference - mean).abs()) - 1
    maps = ((1 - luminance * contrast).relu(), edges.relu(), (-edges).relu())
    means = [error.mean((2, 3)) for error in maps]
    norms = [error.square().square().mean((2, 3)).clamp(min=FLOOR).pow(0.25) for error in maps]
    return torch.stack(means + norms, dim=-1)


def blur(planes: Tensor) -> Tensor:
    """[B, C, H, W] → the same, under a Gaussian of σ 1.5 and 11 taps."""
    mirrored = [planes[..., :RADIUS, :].flip(-2), planes, planes[..., -RADIUS:, :].flip(-2)]
    return convolve(F.pad(torch.cat(mirrored, dim=-2), (RADIUS, RADIUS)), gaussian(SIGMA, RADIUS))


def halved(planes: Tensor) -> Tensor:
    """Means of 2×2 pixels, of what is left of them at an odd edge: [B, C, H, W] → [B, C, ⌈H/2⌉, ⌈W/2⌉]."""
    return F.avg_pool2d(planes, 2, ceil_mode=True, count_include_pad=False)


def linear_light(x: Tensor) -> Tensor:
    """sRGB values in 0..1 → linear light in 0..1."""
    return torch.where(x <= 0.04045, x / 12.92, ((x.clamp(min=0.04045) + 0.055) / 1.055).pow(2.4))
