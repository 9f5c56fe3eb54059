"""How different two pictures look: LPIPS, or what stands in for it and says so, and MS-SSIM."""

import copy
import warnings
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.detection.image_encoder import ImageEncoder, load_image_encoder
from trifocal.errors import MissingExtra, OptionError, WeightsError

MS_SSIM_SIDE = 176  # pixels: 11, the window, at the fifth scale
MS_SSIM_POWERS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, the finest first
SMALLEST = 1e-4  # of a scale's similarity: below 0 its power is not defined, and at 0 has no gradient


class Perceptual(nn.Module):
    """x_hat and x, each [B, 3, H, W] in 0..1 → how different they look, [B]; 0 where they are equal. Never trained.

    Attributes:
        title: what it is, for the record of a run.
        note: a sentence to be said before a run where it is not what was asked for; else "".
    """

    title: str
    note: str = ""


class Lpips(Perceptual):
    """LPIPS (Zhang et al. 2018, arXiv 1801.03924), version 0.1, by its authors' package.

    The backbone's weights are torchvision's, which fetches them where they are not on this machine.

    Args:
        net: the backbone: "alex", or "vgg" with 16 layers.
        scaled: the network sees −1..1, as it was trained. Without, it sees 0..1, as in TACO's code.

    Raises:
        MissingExtra: if the package is not installed.
        WeightsError: if the weights are neither here nor to be had.
    """

    def __init__(self, net: Literal["alex", "vgg"] = "alex", scaled: bool = True) -> None:
        super().__init__()
        self.title = f"LPIPS ({net})" if scaled else f"LPIPS ({net}), fed 0..1"
        self.scaled = scaled
        try:
            from lpips import LPIPS
        except ImportError:
            raise MissingExtra("train", "LPIPS as a loss") from None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # it calls torchvision by older names
                self.network = LPIPS(net=net, verbose=False)
        except OSError as error:  # urllib's URLError is one
            raise WeightsError(
                f"The weights for LPIPS ({net}) are not on this machine and could not be fetched; "
                "run it once where there is a network, and copy torch's cache here."
            ) from error
        self.requires_grad_(False).eval()

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        distance: Tensor = self.network(x_hat.float(), x, normalize=self.scaled)
        return distance.flatten()


class TowerDistance(Perceptual):
    """The distance of two pictures in the project's own image tower.

    As LPIPS (equation 1) without its learned weights: at each place of each stage the squared distance of the feature
    vectors, both of length 1; the mean over places, and here over stages too, where LPIPS has the sum. It lies in 0..4.

    Args:
        tower: the one that ships, if None. It is copied, and the copy is never trained.
        note: see `Perceptual`.

    Raises:
        WeightsError: if the tower that ships is missing or damaged.
    """

    title = "distance in the project's image tower"

    def __init__(self, tower: ImageEncoder | None = None, note: str = "") -> None:
        super().__init__()
        self.tower = copy.deepcopy(tower or load_image_encoder()).requires_grad_(False).eval()
        self.note = note

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        distances = [
            (F.normalize(a.float(), dim=-1) - F.normalize(b.float(), dim=-1))
            .square()
            .sum(-1)
            .flatten(1)
            .mean(1)
            for a, b in zip(self.tower(x_hat.float()).stages, self.tower(x).stages)
        ]
        return torch.stack(distances).mean(0)


class MsSsim(Perceptual):
    """1 − MS-SSIM (Wang et al. 2003), the mean over R, G and B, by torchmetrics' similarity at each scale.

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
        """Raises OptionError where a side is shorter than 176 pixels."""
        if min(x.shape[-2:]) < MS_SSIM_SIDE:
            raise OptionError(
                f"MS-SSIM needs crops of {MS_SSIM_SIDE} pixels a side, not {min(x.shape[-2:])}."
            )
        x_hat = x_hat.float()
        product = torch.ones(len(x), device=x.device)
        with torch.autocast(x.device.type, enabled=False):  # differences of squares need their digits
            for scale, power in enumerate(MS_SSIM_POWERS):
                whole, contrast = self.similarity(
                    x_hat, x, data_range=1.0, reduction="none", return_contrast_sensitivity=True
                )
                last = scale == len(MS_SSIM_POWERS) - 1
                product = product * (whole if last else contrast).clamp(min=SMALLEST) ** power
                x_hat, x = F.avg_pool2d(x_hat, 2), F.avg_pool2d(x, 2)
        return 1 - product


def find_perceptual(prefer: str = "lpips-alex") -> Perceptual:
    """What is preferred, or else the tower's distance, whose `note` says why. It is not rescaled: a weight that was
    published for LPIPS means something else for it.

    Args:
        prefer: "lpips-alex", "lpips-vgg", "ms-ssim" or "tower".

    Raises:
        OptionError: for another name.
        MissingExtra: if MS-SSIM is preferred, and torchmetrics is not installed.
        WeightsError: if the tower's weights are missing too.
    """
    if prefer == "tower":
        return TowerDistance()
    if prefer == "ms-ssim":
        return MsSsim()
    if prefer not in ("lpips-alex", "lpips-vgg"):
        raise OptionError(
            f"There is no perceptual loss {prefer!r}; there are: lpips-alex, lpips-vgg, ms-ssim, tower."
        )
    try:
        return Lpips("vgg" if prefer == "lpips-vgg" else "alex")
    except (MissingExtra, WeightsError) as error:
        return TowerDistance(note=f"{error} The {TowerDistance.title} takes its place.")
