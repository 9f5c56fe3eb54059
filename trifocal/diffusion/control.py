"""The control module: a copy of a U-Net's encoder, joined to the U-Net by zero convolutions.

L. Zhang, A. Rao and M. Agrawala, "Adding Conditional Control to Text-to-Image Diffusion Models" (ICCV 2023),
section 3.1. The condition is a latent at the resolution of the U-Net, so the network that reads it has no
strides: a 3×3 convolution, SiLU, and a 3×3 convolution of zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from trifocal.diffusion.stable_diffusion import EXTRA, NEED
from trifocal.errors import WeightsError, optional_packages

__all__ = ["control_module", "copy_encoder"]

LATENT_CHANNELS = 4
CONDITION: Mapping[str, Any] = {
    "conditioning_channels": LATENT_CHANNELS,
    "conditioning_embedding_out_channels": (256,),
}  # as wide as the last layer of the network that reads images in the paper


def control_module(unet: Mapping[str, Any]) -> Any:
    """A control module with random weights for a U-Net of these sizes, a `diffusers.ControlNetModel`.

    Raises:
        MissingExtra: if diffusers is not installed.
    """
    with optional_packages(EXTRA, NEED):
        from diffusers import ControlNetModel
    return ControlNetModel(**unet, **CONDITION)


@torch.no_grad()
def copy_encoder(control: Any, unet: Any) -> None:
    """Set a control module to a copy of the encoder of a U-Net, with convolutions of zeros.

    Raises:
        WeightsError: if the U-Net has other sizes.
    """
    with optional_packages(EXTRA, NEED):
        from diffusers import ControlNetModel
    copied = ControlNetModel.from_unet(unet, **CONDITION)
    try:
        control.load_state_dict(copied.state_dict())
    except RuntimeError as error:
        raise WeightsError(
            "The U-Net of this diffusion model has other sizes than the control module; use "
            "stable-diffusion-2-1-base."
        ) from error
