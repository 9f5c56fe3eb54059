"""How far a decoded picture is from the original, or how good it is by itself: one number per picture.

Pictures are uint8 [H, W, 3], the peak 255. The mean over pictures is the mean of these numbers (of the PSNRs, that is,
not the PSNR of a mean error), as CompressAI's published tables have it. torchmetrics and pytorch-msssim, with which the
published rows were measured, were compared on decoded Kodak pictures: their MS-SSIMs differ by at most 0.0001. The package
ssimulacra2 was compared with its authors' tool (libjxl 0.11) on four Kodak pictures, JPEG, AVIF and WebP at scores of 20 to 85:
it is lower by 0.8 in the mean, by 0.3 above 70 and by up to 2.6 below 40; so compare its figures with each other only.

`METRICS` is the whole list; what looks at all pictures together (FID, KID, IS) is in `sets`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.errors import MissingExtra, OptionError
from trifocal.evaluation.metrics import human_vision, perceptual

__all__ = ["METRICS", "MS_SSIM_SIDE", "Metric", "Pair", "metric_of", "ms_ssim", "psnr", "ssimulacra2"]

PEAK = 255.0
MS_SSIM_SIDE = 176  # pixels: torchmetrics wants 11 at its coarsest scale, the fifth
SSIMULACRA2_SIDE = 8

Pixels = NDArray[np.uint8]
Measure = Callable[["Pair"], float | None]


@dataclass(frozen=True)
class Pair:
    """A decoded picture, its original, both uint8 [H, W, 3], and what is known of it.

    Attributes:
        captions: the first is its true one.
        named: True inside the boxes of what that caption names, [H, W]; None where there is no such box.
    """

    decoded: Pixels
    original: Pixels
    captions: tuple[str, ...] = ()
    named: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        check_pair(self.decoded, self.original)


@dataclass(frozen=True)
class Metric:
    """A number for each picture.

    Attributes:
        name: of the option and, with `_` for `-`, of the column.
        title: as a plot names it.
        unit: "dB", "JOD", or nothing.
        better: which way is up.
        load: makes the measure, once; raises MissingExtra or NotMeasured. The measure gives None for a picture that it
            cannot judge.
        why_none: what such a picture lacks.
        places: whether the measure needs `Pair.named`.
        limits: the lowest and the highest value that a BD-rate is taken over; None for all that both curves reach.
    """

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    load: Callable[[], Measure]
    why_none: str = ""
    places: bool = False
    limits: tuple[float, float] | None = None

    @property
    def column(self) -> str:
        return self.name.replace("-", "_")

    def scaled(self, value: float) -> float:
        """The value on the scale that curves are interpolated on: larger is better, MS-SSIM as -10·log10(1 - x)."""
        if self.name == "ms-ssim":
            return -10 * math.log10(1 - value) if value < 1 else math.inf
        return value if self.better == "higher" else -value

    def natural(self, scaled: float) -> float:
        """The inverse of `scaled`."""
        if self.name == "ms-ssim":
            return 1 - 10 ** (-scaled / 10)
        return scaled if self.better == "higher" else -scaled

    @property
    def scaled_limits(self) -> tuple[float, float] | None:
        """`limits` on the scale of `scaled`, the lower one first."""
        if self.limits is None:
            return None
        one, other = map(self.scaled, self.limits)
        return min(one, other), max(one, other)


def psnr(decoded: Pixels, original: Pixels) -> float:
    """In dB over all three channels together; inf where the pictures are equal. Raises OptionError."""
    check_pair(decoded, original)
    difference = decoded.astype(np.int32) - original
    error = float(np.mean(np.square(difference), dtype=np.float64))
    return 10 * math.log10(PEAK**2 / error) if error else math.inf


def psnr_where(pair: Pair, named: bool) -> float | None:
    """PSNR of the pixels that are named, or of the rest; None where there are none, or nothing is named."""
    if pair.named is None:
        return None
    chosen = pair.named == named
    return psnr(pair.decoded[chosen], pair.original[chosen]) if chosen.any() else None


def ms_ssim(decoded: Pixels, original: Pixels) -> float | None:
    """0..1, the mean over R, G and B; None where a side is shorter than MS_SSIM_SIDE. Raises OptionError, MissingExtra."""
    check_pair(decoded, original)
    if min(original.shape[:2]) < MS_SSIM_SIDE:
        return None
    return _load_ms_ssim()(Pair(decoded, original))


def ssimulacra2(decoded: Pixels, original: Pixels) -> float | None:
    """Up to 100, which says that nobody sees a difference; 70 is high quality, 50 medium, 30 low (Sneyers 2022).

    None where a side is shorter than 8 pixels. Raises OptionError, MissingExtra.
    """
    return _load_ssimulacra2()(Pair(decoded, original))


def metric_of(name: str) -> Metric:
    """By name; `lpips` is LPIPS with AlexNet, `nima:FILE` NIMA with the weights of that file. Raises OptionError."""
    known = ALIASES.get(name, name).replace("_", "-")
    if name.startswith("nima:"):
        return Metric("nima", "NIMA", "", "higher", partial(perceptual.load_nima, name[5:]))
    if known not in METRICS:
        raise OptionError(f"There is no metric {name!r}; there are: {', '.join(METRICS)}.")
    return METRICS[known]


def check_pair(decoded: Pixels, original: Pixels) -> None:
    if decoded.shape != original.shape or decoded.dtype != np.uint8 or original.dtype != np.uint8:
        raise OptionError(
            f"Only 8-bit pictures of one size can be compared, not {decoded.dtype} {list(decoded.shape)}"
            f" and {original.dtype} {list(original.shape)}."
        )


def _load_ms_ssim() -> Measure:
    try:
        import torch
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as measure
    except ImportError:
        raise MissingExtra("evaluate", "Measuring MS-SSIM") from None

    def of(pair: Pair) -> float | None:
        if min(pair.original.shape[:2]) < MS_SSIM_SIDE:
            return None
        x_hat, x = (perceptual.tensor(pixels, PEAK) for pixels in (pair.decoded, pair.original))
        with torch.inference_mode():
            return float(measure(x_hat, x, data_range=PEAK))

    return of


def _load_ssimulacra2() -> Measure:
    try:
        from ssimulacra2 import compute_ssimulacra2
    except ImportError:
        raise MissingExtra("evaluate", "Measuring SSIMULACRA2") from None

    def of(pair: Pair) -> float | None:
        if min(pair.original.shape[:2]) < SSIMULACRA2_SIDE:
            return None
        return float(compute_ssimulacra2(as_file(pair.original), as_file(pair.decoded)))

    return of


def as_file(pixels: Pixels) -> io.BytesIO:
    """A lossless file in memory, for a library that reads files only."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PPM")
    stream.seek(0)
    return stream


METRICS = {
    metric.name: metric
    for metric in (
        Metric("psnr", "PSNR", "dB", "higher", lambda: lambda pair: psnr(pair.decoded, pair.original)),
        Metric(
            "ms-ssim", "MS-SSIM", "", "higher", _load_ms_ssim, f"MS-SSIM needs {MS_SSIM_SIDE} pixels a side"
        ),
        Metric(
            "ssimulacra2",
            "SSIMULACRA2",
            "",
            "higher",
            _load_ssimulacra2,
            f"SSIMULACRA2 needs {SSIMULACRA2_SIDE} pixels a side",
            limits=(30, 90),
        ),
        Metric(
            "butteraugli",
            "Butteraugli (3-norm)",
            "",
            "lower",
            human_vision.load_butteraugli,
            f"Butteraugli needs {human_vision.BUTTERAUGLI_SIDE} pixels a side",
        ),
        Metric(
            "cvvdp",
            "ColorVideoVDP",
            "JOD",
            "higher",
            human_vision.load_cvvdp,
            f"ColorVideoVDP needs {human_vision.CVVDP_SIDE} pixels a side",
        ),
        Metric("flip", "FLIP", "", "lower", human_vision.load_flip),
        Metric("lpips-alex", "LPIPS (AlexNet)", "", "lower", partial(perceptual.load_lpips, "alex")),
        Metric("lpips-vgg", "LPIPS (VGG)", "", "lower", partial(perceptual.load_lpips, "vgg")),
        Metric("dists", "DISTS", "", "lower", perceptual.load_dists),
        Metric(
            "clip-score",
            "CLIP score",
            "",
            "higher",
            partial(perceptual.load_clip_score, False),
            "a CLIP score needs a caption",
        ),
        Metric(
            "ref-clip-score",
            "reference CLIP score",
            "",
            "higher",
            partial(perceptual.load_clip_score, True),
            "a reference CLIP score needs two captions",
        ),
        Metric("nima", "NIMA", "", "higher", perceptual.load_nima),
        Metric(
            "psnr-named",
            "PSNR of what the caption names",
            "dB",
            "higher",
            lambda: lambda pair: psnr_where(pair, True),
            "psnr-named needs a box of something that the caption names",
            places=True,
        ),
        Metric(
            "psnr-rest",
            "PSNR of the rest",
            "dB",
            "higher",
            lambda: lambda pair: psnr_where(pair, False),
            "psnr-rest needs pixels outside the boxes of what the caption names",
            places=True,
        ),
        Metric("tower", "distance in the image tower", "", "lower", perceptual.load_text_encoder),
    )
}
ALIASES = {"lpips": "lpips-alex"}
