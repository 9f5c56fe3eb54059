"""The transforms of bmshj2018 (Ballé and others, 2018), and UG-ICM's synthesis with a preference.

J. Ballé, D. Minnen, S. Singh, S. J. Hwang and N. Johnston, "Variational Image Compression with a Scale
Hyperprior" (ICLR 2018), figure 4. UG-ICM (Yin et al. 2024, equation 8) shifts the features in each decoder
block.
"""

import torch
from torch import Tensor, nn

from trifocal.layers import Conv, Deconv
from trifocal.transforms.cheng import DivisiveNorm
from trifocal.transforms.preference import CODE, PreferenceCode, PreferenceShift

__all__ = [
    "BMSHJ_RECEPTIVE_FIELD",
    "BmshjAnalysis",
    "BmshjHyperAnalysis",
    "PreferredBmshjSynthesis",
    "bmshj_hyper_synthesis",
]

# pixels: a strided 5×5 kernel adds two positions of the finer scale, a transposed one a position of the
# coarser, at strides 1, 2, 4 and 8; rounded up to whole latents
BMSHJ_RECEPTIVE_FIELD = 32


class BmshjAnalysis(nn.Module):
    """x [B, 3, H, W] in 0..1 → y [B, H/16, W/16, M]: four 5×5 convolutions with stride 2, and divisive
    normalisation between them.

    Args:
        channels: N.
        latent_channels: M.
    """

    def __init__(self, channels: int = 128, latent_channels: int = 192) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (3, channels, channels):
            layers += [Conv(inputs, channels, 5, stride=2), DivisiveNorm(channels)]
        self.body = nn.Sequential(*layers, Conv(channels, latent_channels, 5, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x.permute(0, 2, 3, 1))
        return y


class PreferredBmshjSynthesis(nn.Module):
    """y_hat [B, h, w, M], preference [B] → x_hat [B, 3, 16·h, 16·w], not clamped.

        y_hat ── (transposed 5×5, inverse divisive normalisation, shift) × 3 ── transposed 5×5 to 3 ── x_hat
                                                                    └ preference ── code

    Args:
        channels: N.
        latent_channels: M.
        code_channels: of the preference's code.
    """

    def __init__(self, channels: int = 128, latent_channels: int = 192, code_channels: int = CODE) -> None:
        super().__init__()
        self.preference = PreferenceCode(code_channels)
        self.up = nn.ModuleList(
            nn.Sequential(Deconv(inputs, channels, 5), DivisiveNorm(channels, inverse=True))
            for inputs in (latent_channels, channels, channels)
        )
        self.shifts = nn.ModuleList(PreferenceShift(channels, code_channels) for _ in range(3))
        self.last = Deconv(channels, 3, 5)

    def forward(self, y_hat: Tensor, level: Tensor, preference: Tensor | None = None) -> Tensor:
        """preference [B], 0 for people … 1 for machines; None is 0. `level` is unused here: the rate is
        controlled by the gains at the quantiser.
        """
        code = self.preference(torch.zeros(1).to(y_hat) if preference is None else preference.to(y_hat))
        features = y_hat
        for up, shift in zip(self.up, self.shifts, strict=True):
            features = shift(up(features), code)
        x_hat: Tensor = self.last(features)
        return x_hat.permute(0, 3, 1, 2)


class BmshjHyperAnalysis(nn.Module):
    """Magnitudes of y [B, h, w, M] → z [B, h/4, w/4, N]. Encoder only, so in ordinary floats."""

    def __init__(self, channels: int = 128, latent_channels: int = 192) -> None:
        super().__init__()
        n = channels
        self.body = nn.Sequential(
            Conv(latent_channels, n, 3),
            nn.ReLU(),
            Conv(n, n, 5, stride=2),
            nn.ReLU(),
            Conv(n, n, 5, stride=2),
        )

    def forward(self, y: Tensor) -> Tensor:
        z: Tensor = self.body(y.abs())
        return z


def bmshj_hyper_synthesis(channels: int = 128, latent_channels: int = 192) -> nn.Sequential:
    """z_hat [B, h/4, w/4, N] → log₂ of the scale of y, [B, h, w, M]. All layers have integer forms.

    The paper has the scale itself here, after one more ReLU.
    """
    n = channels
    return nn.Sequential(Deconv(n, n, 5), nn.ReLU(), Deconv(n, n, 5), nn.ReLU(), Conv(n, latent_channels, 3))
