"""How far a decoded picture is from the original: both uint8 [H, W, 3], the peak 255, one number per picture.

The mean over pictures is the mean of these numbers (of the PSNRs, that is, not the PSNR of a mean error), as
CompressAI's published tables have it. torchmetrics and pytorch-msssim, with which the published rows were measured,
were compared on decoded Kodak pictures: their MS-SSIMs differ by at most 0.0001.
"""

import math

import numpy as np
from numpy.typing import NDArray

from trifocal.errors import MissingExtra, OptionError

__all__ = ["MS_SSIM_SIDE", "check_installed", "ms_ssim", "psnr"]

PEAK = 255.0
MS_SSIM_SIDE = 176  # pixels: torchmetrics wants 11 at its coarsest scale, the fifth

Pixels = NDArray[np.uint8]


def check_installed() -> None:
    """Raises MissingExtra where measuring would fail later."""
    try:
        import torchmetrics  # noqa: F401
    except ImportError:
        raise MissingExtra("evaluate", "Measuring MS-SSIM") from None


def psnr(decoded: Pixels, original: Pixels) -> float:
    """In dB over all three channels together; inf where the pictures are equal. Raises OptionError."""
    check_pair(decoded, original)
    difference = decoded.astype(np.int32) - original
    error = float(np.mean(np.square(difference), dtype=np.float64))
    return 10 * math.log10(PEAK**2 / error) if error else math.inf


def ms_ssim(decoded: Pixels, original: Pixels) -> float | None:
    """0..1, the mean over R, G and B; None where a side is shorter than MS_SSIM_SIDE. Raises OptionError, MissingExtra."""
    check_pair(decoded, original)
    if min(original.shape[:2]) < MS_SSIM_SIDE:
        return None
    check_installed()
    import torch
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as measure

    x_hat, x = (
        torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None] for pixels in (decoded, original)
    )
    with torch.inference_mode():
        return float(measure(x_hat, x, data_range=PEAK))


def check_pair(decoded: Pixels, original: Pixels) -> None:
    if decoded.shape != original.shape or decoded.dtype != np.uint8 or original.dtype != np.uint8:
        raise OptionError(
            f"Only 8-bit pictures of one size can be compared, not {decoded.dtype} {list(decoded.shape)}"
            f" and {original.dtype} {list(original.shape)}."
        )
