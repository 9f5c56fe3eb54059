"""DISCOVER: objects first, and Stable Diffusion fills in what is not sent.

J. Liu et al., "Semantics Disentanglement and Composition for Versatile Codec toward both Human-eye Perception
and Machine Vision Task".

    x ── analysis ── y ⇄ side information, objects, rest ── y_hat, z_hat ── g_s, U ── z_c_hat
                                                                                         │
    seed of the file ── noise ── U-Net, 50 or 8 steps ── z_0 ── VAE ── x_hat          control
                                   └─────────────────────────────────────────────────────┘

Analysis and entropy model are ELIC's. The decoder reconstructs the latent z_c of Stable Diffusion's VAE, from
which a control module steers the sampling. U-Net, VAE and text encoder are frozen; they are part of neither
the weights of the preset nor of its checkpoints, and encoding does not load them. The preference selects the
steps of the sampler: 50 for people (0), 8 for machines (1), and linearly between them.

The latent of a file is bit-exact on every machine. The image is not: it depends on the device and on the
versions of torch and diffusers, and is the same each time on one machine.

Choices where the paper is silent, and differences from it:

    - U (M in the paper): U(z_hat) has N channels, 5×5 transposed convolutions and a 3×3 convolution, and is
      concatenated with y_hat. So g_s begins with an attention of M + N channels
      (`transforms/latent_synthesis.py`).
    - The condition enters the control module as in ControlNet, with a small network without strides
      (`diffusion/control.py`). The text is empty, without guidance.
    - The sampler is DDIM without added noise. Its first noise follows from a seed in the file, which the
      encoder derives from the pixels. The paper draws it anew.
    - z_c is the mean of the VAE's distribution, times its scaling factor.
    - Images above 1024 pixels are sampled in overlapping windows whose noise is averaged in each step
      (`diffusion/sampling.py`). A region is cut out of the whole image, since each position depends on all.
    - `encode` finds objects by labels with the bundled detector, in place of ChatGPT-4o and Grounding DINO;
      `trifocal.Component` takes boxes of any other.
    - One model for all rates, by gains around the quantiser and a prior of z that both depend on the quality.
      The paper has one model for each of four rates, as `--lambda` trains, and an entropy bottleneck for z.
    - Logistic distributions from integer tables where ELIC has Gaussians: see `entropy/elic.py`.
    - Optimiser, batch, and the shape of the masks: see `losses/discover.py` and the recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from trifocal.codecs.diffusion_codec import DiffusionCodec, DiffusionNetwork, DiffusionRuntime
from trifocal.codecs.network import rate_estimator
from trifocal.diffusion.control import control_module, copy_encoder
from trifocal.diffusion.sampling import SAMPLER, decode_in_windows, sample, start_noise
from trifocal.diffusion.stable_diffusion import NAME, UNET, StableDiffusion, load_stable_diffusion
from trifocal.entropy import EntropyModel, RateEstimator, TrainingRateEstimator
from trifocal.entropy.elic import elic_hyperprior
from trifocal.entropy.latent_coding import split_hyper_latent
from trifocal.layers import QualityInterpolation
from trifocal.transforms.elic import ElicAnalysis, elic_receptive_field
from trifocal.transforms.latent_synthesis import LatentSynthesis
from trifocal.types import MAX_LEVEL, Condition, DiffusionOutput, PartialTile

__all__ = ["Discover", "DiscoverSynthesis", "discover"]

GROUPS = (16, 16, 32, 64, 192)
QUALITY_KNOTS = 8
COARSEST = 2.5  # initial quantiser step at quality 0; at 50 it is 1
STEPS = 50, 8  # of the sampler, for people and for machines


class DiscoverSynthesis(nn.Module):
    """What is trained of the decoder.

    Args:
        latent: y_hat, z_hat → z_c_hat.
        control: a copy of the U-Net's encoder that reads z_c_hat.
    """

    def __init__(self, latent: LatentSynthesis, control: nn.Module) -> None:
        super().__init__()
        self.latent, self.control = latent, control


class Discover(DiffusionNetwork):
    """A network whose decoder is a frozen Stable Diffusion under the control of the decoded latent.

    y_hat has z_hat as further channels here, [B, h, w, M + N]; see `latent_coding.join_hyper_latent`.

    Args:
        analysis, entropy, synthesis: as in `CodecNetwork`.
        receptive_field: of the analysis, pixels to each side; the synthesis depends on the whole image.
        model: name or folder of the Stable Diffusion.

    Attributes:
        find_diffusion: name, device → the frozen networks.
    """

    synthesis: DiscoverSynthesis
    find_diffusion: Callable[[str, str], StableDiffusion] = staticmethod(load_stable_diffusion)

    def __init__(
        self,
        analysis: ElicAnalysis,
        entropy: EntropyModel,
        synthesis: DiscoverSynthesis,
        receptive_field: int,
        model: str = NAME,
    ) -> None:
        super().__init__(analysis, entropy, synthesis, receptive_field)
        entropy.joins_hyper_latent = True
        self.hyper_channels, self.model = synthesis.latent.hyper_channels, model

    @property
    def diffusion(self) -> StableDiffusion:
        """The frozen networks on the network's device. Raises WeightsError, MissingExtra."""
        return self.find_diffusion(self.model, str(self.device))

    def begin_training(self) -> None:
        """Copy the encoder of the U-Net to the control module. Raises WeightsError, MissingExtra."""
        copy_encoder(self.synthesis.control, self.diffusion.unet)

    def description(self) -> dict[str, object]:
        return {
            "diffusion": self.model,
            "sampler": SAMPLER,
            "sampler_steps": list(STEPS),
            "diffusers": version("diffusers"),
        }

    def decoded_latent(self, y_hat: Tensor, kept: Tensor | None = None) -> Tensor:
        """y_hat [B, h, w, M + N] → z_c_hat [B, 4, 2h, 2w]; y_hat is zero where `kept` [B, h, w] is False."""
        values, z_hat = split_hyper_latent(y_hat, self.entropy.latent_channels)
        if kept is not None:
            values = values * kept[..., None]
        z_c: Tensor = self.synthesis.latent(values, z_hat)
        return z_c

    def synthesise(
        self,
        y_hat: Tensor,
        level: Tensor,
        condition: Condition | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Tensor:
        """y_hat [B, h, w, M + N] of whole images → x_hat [B, 3, 16·h, 16·w], without a gradient.

        Args:
            y_hat: h and w are multiples of 4.
            level: has no effect here.
            condition: its seed (0 without one) gives the noise, its preference [B] the steps.
            progress: called with the fraction done of each image, 0..1.

        Raises:
            WeightsError, MissingExtra: if Stable Diffusion is not on this machine.
        """
        diffusion, condition = self.diffusion, condition or Condition()
        with torch.no_grad():
            z_c = self.decoded_latent(y_hat)
            noise = start_noise(condition.seed or 0, (z_c.shape[2], z_c.shape[3]))
            preferences = [0.0] * len(z_c) if condition.preference is None else condition.preference.tolist()
            control = self.synthesis.control
            images = [
                decode_in_windows(
                    diffusion,
                    sample(diffusion, control, own, noise, sampling_steps(preference), progress),
                )
                for own, preference in zip(z_c.split(1), preferences, strict=True)
            ]
        return torch.cat(images).float()

    def _forward(
        self,
        x: Tensor,
        level: Tensor,
        condition: Condition | None,
        estimator: RateEstimator | TrainingRateEstimator | None,
        partial: Sequence[PartialTile | None] | None = None,
    ) -> DiffusionOutput:
        """The errors of z_c_hat and of the predicted noise, at a random step of the noise schedule. In
        evaluation mode steps and noise are the same in each call, and x_hat is the VAE's image of z_c_hat,
        without the diffusion model.
        """
        y = self.analyse(x)
        estimator = estimator or rate_estimator(self.entropy, x)
        y_hat = self.code_latents(estimator, y, level, (y.shape[1], y.shape[2]))
        z_c_hat = self.decoded_latent(y_hat, None if condition is None else condition.kept)
        diffusion = self.diffusion
        z_c = diffusion.encode(x)
        random = None if self.training else torch.Generator().manual_seed(0)
        noise = torch.randn(z_c.shape, generator=random).to(z_c)
        time = torch.randint(diffusion.noise_steps, (len(x),), generator=random).to(x.device)
        noisy = diffusion.add_noise(z_c, noise, time)
        predicted = diffusion.predict_noise(noisy, time, self.synthesis.control, z_c_hat)
        return DiffusionOutput(
            x.new_zeros(0) if self.training else diffusion.decode(z_c_hat.detach()),
            y_hat,
            torch.as_tensor(estimator.bits),
            latent_error=(z_c_hat - z_c).square().flatten(1).mean(1),
            noise_error=(predicted - noise).square().flatten(1).mean(1),
        )


def sampling_steps(preference: float) -> int:
    """The steps of the sampler for a preference from 0, people, to 1, machines."""
    people, machines = STEPS
    return round(people + (machines - people) * preference)


def discover(
    channels: int = 192,
    sizes: Sequence[int] = GROUPS,
    hidden: tuple[int, int] = (224, 128),
    bottlenecks: int = 3,
    unet: Mapping[str, Any] = UNET,
    model: str = NAME,
) -> DiffusionCodec:
    """DISCOVER with untrained weights, by default at the paper's size. Downloads nothing.

    Args:
        channels: N.
        sizes: channels of ELIC's groups; their sum is M.
        hidden: widths inside the channel context.
        bottlenecks: at each scale of analysis and synthesis.
        unet: sizes of the diffusion model's U-Net, whose encoder the control module copies.
        model: name or folder of the Stable Diffusion.

    Raises:
        MissingExtra: if diffusers is not installed.
    """
    m = sum(sizes)
    middle = MAX_LEVEL // 2
    step_sizes = COARSEST ** (1 - torch.arange(QUALITY_KNOTS) * QualityInterpolation.SPACING / middle)
    network = Discover(
        analysis=ElicAnalysis(channels, m, bottlenecks),
        entropy=elic_hyperprior(channels, sizes, step_sizes, hidden),
        synthesis=DiscoverSynthesis(
            LatentSynthesis(channels, m, bottlenecks=bottlenecks), control_module(unet)
        ),
        receptive_field=elic_receptive_field(bottlenecks),
        model=model,
    )
    return DiffusionCodec(DiffusionRuntime(network))
