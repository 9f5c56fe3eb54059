"""A preference, from people to machines, that shifts the features of a synthesis (UG-ICM's PCDM).

K. Yin et al., "Unified Coding for Both Human Perception and Generalized Machine Analytics with CLIP
Supervision" (2024), equation 8 and figure 2 (b); sizes as in its published code.
"""

import torch
from torch import Tensor, nn

from trifocal.layers import Conv, ResidualBlock

__all__ = ["CODE", "PreferenceCode", "PreferenceShift", "PreferredBlock"]

CODE = 512  # channels of the code
OCTAVES = 10


class PreferenceCode(nn.Module):
    """Preference β [B] in 0..1 → its code [B, 512]: Fourier features, and two linear layers with ReLU.

    The features are β and sin and cos of 2^k · β for k in 0..9: 21 numbers. β is continuous.

    Args:
        channels: of the code and between the layers.
    """

    frequencies: Tensor

    def __init__(self, channels: int = CODE) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(1 + 2 * OCTAVES, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU()
        )
        self.register_buffer("frequencies", 2.0 ** torch.arange(OCTAVES), persistent=False)

    def forward(self, preference: Tensor) -> Tensor:
        beta = preference[:, None]
        angles = beta * self.frequencies
        code: Tensor = self.layers(torch.cat([beta, angles.sin(), angles.cos()], dim=-1))
        return code


class PreferenceShift(nn.Module):
    """x + a linear function of the code, one number per channel (equation 8): [B, h, w, C] → same.

    Args:
        channels: C.
        code_channels: of the code.
    """

    def __init__(self, channels: int, code_channels: int = CODE) -> None:
        super().__init__()
        self.project = nn.Linear(code_channels, channels, bias=False)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """code [B, D], or [1, D] for all images."""
        shifted: Tensor = x + self.project(code)[:, None, None, :]
        return shifted


class PreferredBlock(ResidualBlock):
    """A residual block with a shift after each convolution: [B, h, w, I] → [B, h, w, O].

        x ── 3×3 ── GELU ── shift ── 3×3 ── GELU ── shift ── + x, or + 1×1(x) if I and O differ

    The receptive field is two positions to each side.

    Args:
        inputs, outputs: I and O.
        code_channels: of the code.
    """

    def __init__(self, inputs: int, outputs: int, code_channels: int = CODE) -> None:
        super().__init__()
        self.first, self.second = Conv(inputs, outputs, 3), Conv(outputs, outputs, 3)
        self.shifts = nn.ModuleList(PreferenceShift(outputs, code_channels) for _ in range(2))
        self.activation = nn.GELU()
        self.skip = nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        with self.branch_precision(x):
            branch = self.shifts[0](self.activation(self.first(x)), code)
            branch = self.shifts[1](self.activation(self.second(branch)), code)
        whole: Tensor = self.skip(x) + branch
        return whole
