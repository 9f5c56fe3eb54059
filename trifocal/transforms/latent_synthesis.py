"""Synthesis of DISCOVER: y_hat and z_hat → the latent of a VAE, which a diffusion model reads."""

import torch
from torch import Tensor, nn

from trifocal.layers import Conv, Deconv
from trifocal.transforms.elic import Bottleneck, GatedAttention

__all__ = ["LatentSynthesis"]


class LatentSynthesis(nn.Module):
    """g_s and U of J. Liu et al. (DISCOVER, equation 2, where U is called M).

    [B, h, w, M], [B, h/4, w/4, N] → [B, 4, 2h, 2w].

        z_hat ── deconv, ReLU, deconv, ReLU, conv ─┐
        y_hat ─────────────────────────────────────┴─ attention ── deconv ── bottlenecks ── conv ── z_c

    g_s is ELIC's synthesis up to 1/8. Its layers at 1/4 and 1/2 are left out, since the latent of the VAE has
    1/8 of the image's resolution.

    Attributes:
        hyper_channels: N.

    Args:
        channels: N, also of the hyper-latent.
        latent_channels: M.
        outputs: channels of the VAE's latent.
        bottlenecks: at 1/8.
    """

    def __init__(self, channels: int, latent_channels: int, outputs: int = 4, bottlenecks: int = 3) -> None:
        super().__init__()
        n, m = channels, latent_channels
        self.hyper_channels = n
        self.coarse = nn.Sequential(Deconv(n, n, 5), nn.ReLU(), Deconv(n, n, 5), nn.ReLU(), Conv(n, n, 3))
        self.body = nn.Sequential(
            GatedAttention(m + n),
            Deconv(m + n, n, 5),
            *[Bottleneck(n) for _ in range(bottlenecks)],
            Conv(n, outputs, 3),
        )

    def forward(self, y_hat: Tensor, z_hat: Tensor) -> Tensor:
        latent: Tensor = self.body(torch.cat([y_hat, self.coarse(z_hat)], dim=-1))
        return latent.permute(0, 3, 1, 2)
