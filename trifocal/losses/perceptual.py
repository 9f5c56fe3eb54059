"""Perceptual distances: LPIPS, image-encoder features, and MS-SSIM."""

import copy
import warnings
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.detection.image_encoder import ImageEncoder, load_image_encoder
from trifocal.errors import MissingExtra, OptionError, WeightsError
from trifocal.utils.local_networks import HOW_TO_NAME, torch_weights

PerceptualName = Literal["lpips-alex", "lpips-vgg", "lpips-unscaled", "ms-ssim", "tower"]
BACKBONES = {"alex": "AlexNet (alexnet-*.pth)", "vgg": "VGG-16 (vgg16-*.pth)"}  # of LPIPS
MS_SSIM_SIDE = 176  # pixels: the window of 11 at the fifth scale
MS_SSIM_POWERS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # by scale, finest first
SMALLEST = 1e-4  # similarity of a scale: its power is undefined below 0, and has no gradient at 0


class Perceptual(nn.Module):
    """x_hat and x, each [B, 3, H, W] in 0..1 → their distance [B], 0 for equal images. It is never trained.

    Attributes:
        title: for the record of a run.
        notice: a notice before a run, if it replaces another distance; else "".
    """

    title: str
    notice: str = ""


class Lpips(Perceptual):
    """LPIPS (Zhang et al. 2018, arXiv 1801.03924), version 0.1, by its authors' package.

    torchvision downloads the weights of the backbone if they are not on this machine.

    Args:
        net: the backbone: "alex", or "vgg" with 16 layers.
        scaled: scale inputs to −1..1, as in the training of LPIPS; False feeds 0..1, as TACO's code does.
        trained: False leaves the backbone at random weights, to count operations without a download.

    Raises:
        MissingExtra: if the package is not installed.
        WeightsError: if the weights are not on this machine and cannot be downloaded.
    """

    def __init__(
        self, net: Literal["alex", "vgg"] = "alex", scaled: bool = True, trained: bool = True
    ) -> None:
        super().__init__()
        self.title = f"LPIPS ({net})" if scaled else f"LPIPS ({net}), fed 0..1"
        self.scaled = scaled
        try:
            from lpips import LPIPS
        except ImportError:
            raise MissingExtra("train", "LPIPS as a loss") from None
        try:
            with warnings.catch_warnings(), torch_weights():
                warnings.simplefilter("ignore", UserWarning)  # about deprecated names of torchvision
                self.network = LPIPS(net=net, verbose=False, pnet_rand=not trained)
        except OSError as error:  # urllib's URLError is one
            raise WeightsError(
                f"The weights of LPIPS ({net}) are not on this machine and could not be downloaded; put "
                f"torchvision's file of {BACKBONES[net]} into FOLDER/checkpoints, and {HOW_TO_NAME}."
            ) from error
        self.requires_grad_(False).eval()

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        distance: Tensor = self.network(x_hat.float(), x, normalize=self.scaled)
        return distance.flatten()


class EncoderDistance(Perceptual):
    """The distance of the features of the bundled image encoder, in 0..4.

    LPIPS (equation 1) without its learned weights: the squared distance of the normalised feature vectors at
    each position of each stage, averaged over positions and stages (LPIPS sums over stages).

    Args:
        encoder: an image encoder; None is the bundled one. A copy of it is used.
        notice: see `Perceptual`.

    Raises:
        WeightsError: if the bundled weights are missing or damaged.
    """

    title = "distance in the bundled image encoder"

    def __init__(self, encoder: ImageEncoder | None = None, notice: str = "") -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder or load_image_encoder()).requires_grad_(False).eval()
        self.notice = notice

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        distances = [
            (F.normalize(a.float(), dim=-1) - F.normalize(b.float(), dim=-1))
            .square()
            .sum(-1)
            .flatten(1)
            .mean(1)
            for a, b in zip(self.encoder(x_hat.float()).feature_maps, self.encoder(x).feature_maps)
        ]
        return torch.stack(distances).mean(0)


class MsSsim(Perceptual):
    """1 − MS-SSIM (Wang et al. 2003), the mean over R, G and B, from torchmetrics' SSIM at each scale.

    Raises:
        MissingExtra: if torchmetrics is not installed.
    """

    title = "1 − MS-SSIM"

    def __init__(self) -> None:
        super().__init__()
        try:
            from torchmetrics.functional.image import structural_similarity_index_measure
        except ImportError:
            raise MissingExtra("train", "MS-SSIM as a loss") from None
        self.similarity = structural_similarity_index_measure

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Raises OptionError if a side is shorter than 176 pixels."""
        if min(x.shape[-2:]) < MS_SSIM_SIDE:
            raise OptionError(
                f"MS-SSIM needs crops of {MS_SSIM_SIDE} pixels a side, not {min(x.shape[-2:])}."
            )
        x_hat = x_hat.float()
        product = torch.ones(len(x), device=x.device)
        with torch.autocast(x.device.type, enabled=False):  # differences of squares need float32
            for scale, power in enumerate(MS_SSIM_POWERS):
                whole, contrast = self.similarity(
                    x_hat, x, data_range=1.0, reduction="none", return_contrast_sensitivity=True
                )
                last = scale == len(MS_SSIM_POWERS) - 1
                product = product * (whole if last else contrast).clamp(min=SMALLEST) ** power
                x_hat, x = F.avg_pool2d(x_hat, 2), F.avg_pool2d(x, 2)
        return 1 - product


def as_perceptual(perceptual: nn.Module | PerceptualName | None) -> nn.Module:
    """A distance: the module itself, or that of a name; None is `find_perceptual()`. Raises as there."""
    if isinstance(perceptual, nn.Module):
        return perceptual
    return find_perceptual() if perceptual is None else find_perceptual(perceptual)


def find_perceptual(prefer: PerceptualName = "lpips-alex") -> Perceptual:
    """The preferred distance, or `EncoderDistance`, with a `notice`, if it is not available.

    `EncoderDistance` is not rescaled to the range of LPIPS, so weights published for LPIPS have another
    effect.

    Args:
        prefer: "lpips-alex", "lpips-vgg", "lpips-unscaled" (AlexNet, fed 0..1), "ms-ssim" or "tower".

    Raises:
        OptionError: for another name.
        MissingExtra: if MS-SSIM is preferred and torchmetrics is not installed.
        WeightsError: if the weights of the image encoder are missing too.
    """
    if prefer == "tower":
        return EncoderDistance()
    if prefer == "ms-ssim":
        return MsSsim()
    if prefer not in ("lpips-alex", "lpips-vgg", "lpips-unscaled"):
        raise OptionError(
            f"There is no perceptual loss {prefer!r}; choose from {', '.join(get_args(PerceptualName))}."
        )
    try:
        return Lpips("vgg" if prefer == "lpips-vgg" else "alex", scaled=prefer != "lpips-unscaled")
    except (MissingExtra, WeightsError) as error:
        return EncoderDistance(notice=f"{error} The {EncoderDistance.title} replaces it.")
