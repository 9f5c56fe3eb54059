"""Metrics with one number per image, and the table of all of them.

Images are uint8 [H, W, 3] with a peak of 255. The mean over images is the mean of these numbers (of PSNRs,
not the PSNR of a mean error), as in CompressAI's published tables. The MS-SSIMs of torchmetrics and of
pytorch-msssim, which the published rows use, differ by at most 0.0001 on decoded Kodak images. The package
ssimulacra2 was compared with its authors' tool (libjxl 0.11) on four Kodak images coded as JPEG, AVIF and
WebP with scores of 20 to 85: it is lower by 0.8 in the mean, by 0.3 above 70 and by up to 2.6 below 40.
Compare its figures only with each other.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from PIL import Image

from trifocal.errors import MissingExtra, OptionError
from trifocal.evaluation.metrics import human_vision, perceptual
from trifocal.evaluation.metrics.pair import Measure, Pair, Pixels, check_pair

__all__ = ["METRICS", "MIN_SIDE_MS_SSIM", "Metric", "find_metric", "ms_ssim", "psnr", "ssimulacra2"]

PEAK = 255.0
MIN_SIDE_MS_SSIM = 176  # pixels: torchmetrics needs 11 at its coarsest scale, the fifth
MIN_SIDE_SSIM = 11  # pixels: the window of the Gaussian
MIN_SIDE_SSIMULACRA2 = 8
NO_OBJECTS = "no annotated object has 64 pixels a side"


@dataclass(frozen=True)
class Metric:
    """A number for each image.

    Attributes:
        name: of the option and, with `_` for `-`, of the column.
        title: for plots.
        unit: "dB", "JOD", or empty.
        better: the direction of better values.
        load: creates the measure; raises MissingExtra or NotMeasured. The measure returns None for an image
            that it cannot measure.
        takes_device: whether `load` takes the keyword `device`, of torch.
        missing_reason: what such an image lacks.
        needs: the field of `Pair` that the measure needs: "named" or "objects"; None if neither.
        limits: the lowest and highest value that a BD-rate covers; None for the whole overlap of the curves.
    """

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    load: Callable[..., Measure]
    missing_reason: str = ""
    needs: Literal["named", "objects"] | None = None
    limits: tuple[float, float] | None = None
    takes_device: bool = False

    @property
    def column(self) -> str:
        return self.name.replace("-", "_")

    def scaled(self, value: float) -> float:
        """The value on the scale of interpolation: larger is better, MS-SSIM as -10·log10(1 - x) dB."""
        if self.name == "ms-ssim":
            return -10 * math.log10(1 - value) if value < 1 else math.inf
        return value if self.better == "higher" else -value

    def natural(self, scaled: float) -> float:
        """The inverse of `scaled`."""
        if self.name == "ms-ssim":
            return 1 - 10 ** (-scaled / 10)
        return scaled if self.better == "higher" else -scaled

    def load_on(self, device: str) -> Measure:
        """The measure, with its network on a device, if it has one. Raises as `load`."""
        return self.load(device=device) if self.takes_device else self.load()

    @property
    def scaled_limits(self) -> tuple[float, float] | None:
        """`limits` on the scale of `scaled`, the lower one first."""
        if self.limits is None:
            return None
        one, other = map(self.scaled, self.limits)
        return min(one, other), max(one, other)


def psnr(decoded: Pixels, original: Pixels) -> float:
    """PSNR in dB over all three channels; inf for equal images. Raises OptionError."""
    check_pair(decoded, original)
    difference = decoded.astype(np.int32) - original
    error = float(np.mean(np.square(difference), dtype=np.float64))
    return 10 * math.log10(PEAK**2 / error) if error else math.inf


def psnr_in_boxes(pair: Pair, inside: bool) -> float | None:
    """PSNR of the pixels inside (or outside) the named boxes; None if there are no boxes, or no such
    pixels.
    """
    if pair.named is None:
        return None
    chosen = pair.named == inside
    return psnr(pair.decoded[chosen], pair.original[chosen]) if chosen.any() else None


def psnr_of_objects(pair: Pair) -> float | None:
    """PSNR of the pixels in the boxes of `pair.objects`; None without boxes."""
    inside = np.zeros(pair.original.shape[:2], np.bool_)
    for x0, y0, x1, y1 in pair.objects:
        inside[y0:y1, x0:x1] = True
    return psnr(pair.decoded[inside], pair.original[inside]) if inside.any() else None


def mean_over_objects(load: Callable[[], Measure]) -> Measure:
    """A measure of each box of `pair.objects`, averaged with the boxes' areas as weights; None without boxes.

    Each box is measured as an image of its own, so an error map is averaged over the box, and nothing outside
    counts. Raises as `load`.
    """
    measure_crop = load()

    def measure(pair: Pair) -> float | None:
        values, areas = [], []
        for x0, y0, x1, y1 in pair.objects:
            crop = np.s_[y0:y1, x0:x1]
            value = measure_crop(Pair(pair.decoded[crop], pair.original[crop]))
            if value is not None:
                values.append(value)
                areas.append((x1 - x0) * (y1 - y0))
        return float(np.average(values, weights=areas)) if values else None

    return measure


def ms_ssim(decoded: Pixels, original: Pixels) -> float | None:
    """MS-SSIM, 0..1, the mean over R, G and B; None if a side is shorter than MIN_SIDE_MS_SSIM.

    Raises OptionError, MissingExtra.
    """
    check_pair(decoded, original)
    if min(original.shape[:2]) < MIN_SIDE_MS_SSIM:
        return None
    return _load_ms_ssim()(Pair(decoded, original))


def ssimulacra2(decoded: Pixels, original: Pixels) -> float | None:
    """SSIMULACRA2 (Sneyers 2022), at most 100: no visible difference; 70 is high quality, 50 medium, 30 low.

    None if a side is shorter than 8 pixels. Raises OptionError, MissingExtra.
    """
    return _load_ssimulacra2()(Pair(decoded, original))


def find_metric(name: str) -> Metric:
    """A metric by name; `lpips` is LPIPS with AlexNet, `nima:FILE` is NIMA with the weights in that file.

    Raises OptionError for an unknown name.
    """
    known = ALIASES.get(name, name).replace("_", "-")
    if name.startswith("nima:"):
        return Metric(
            "nima", "NIMA", "", "higher", partial(perceptual.load_nima, name[5:]), takes_device=True
        )
    if known not in METRICS:
        raise OptionError(f"There is no metric {name!r}; there are: {', '.join(METRICS)}.")
    return METRICS[known]


def _load_ms_ssim() -> Measure:
    try:
        import torch
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as score
    except ImportError:
        raise MissingExtra("evaluate", "Measuring MS-SSIM") from None

    def measure(pair: Pair) -> float | None:
        if min(pair.original.shape[:2]) < MIN_SIDE_MS_SSIM:
            return None
        x_hat, x = (perceptual.to_tensor(pixels, PEAK) for pixels in (pair.decoded, pair.original))
        with torch.inference_mode():
            return float(score(x_hat, x, data_range=PEAK))

    return measure


def _load_ssim() -> Measure:
    """SSIM (Wang et al. 2004), at most 1, with a Gaussian window of 11 pixels (σ 1.5), averaged over RGB.

    The original is for grey images; published figures of colour images differ in how they treat colour.
    """
    try:
        import torch
        from torchmetrics.functional.image import structural_similarity_index_measure as score
    except ImportError:
        raise MissingExtra("evaluate", "Measuring SSIM") from None

    def measure(pair: Pair) -> float | None:
        if min(pair.original.shape[:2]) < MIN_SIDE_SSIM:
            return None
        x_hat, x = (perceptual.to_tensor(pixels, PEAK).double() for pixels in (pair.decoded, pair.original))
        with torch.inference_mode():
            value = score(x_hat, x, data_range=PEAK)
        assert isinstance(value, torch.Tensor)
        return float(value)

    return measure


def _load_ssimulacra2() -> Measure:
    try:
        from ssimulacra2 import compute_ssimulacra2
    except ImportError:
        raise MissingExtra("evaluate", "Measuring SSIMULACRA2") from None

    def measure(pair: Pair) -> float | None:
        if min(pair.original.shape[:2]) < MIN_SIDE_SSIMULACRA2:
            return None
        return float(compute_ssimulacra2(as_file(pair.original), as_file(pair.decoded)))

    return measure


def as_file(pixels: Pixels) -> io.BytesIO:
    """A PPM file in memory, for a library that reads files only."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PPM")
    stream.seek(0)
    return stream


METRICS = {
    metric.name: metric
    for metric in (
        Metric("psnr", "PSNR", "dB", "higher", lambda: lambda pair: psnr(pair.decoded, pair.original)),
        Metric("ssim", "SSIM", "", "higher", _load_ssim, f"SSIM needs {MIN_SIDE_SSIM} pixels a side"),
        Metric(
            "ms-ssim",
            "MS-SSIM",
            "",
            "higher",
            _load_ms_ssim,
            f"MS-SSIM needs {MIN_SIDE_MS_SSIM} pixels a side",
        ),
        Metric(
            "ssimulacra2",
            "SSIMULACRA2",
            "",
            "higher",
            _load_ssimulacra2,
            f"SSIMULACRA2 needs {MIN_SIDE_SSIMULACRA2} pixels a side",
            limits=(30, 90),
        ),
        Metric(
            "butteraugli",
            "Butteraugli (3-norm)",
            "",
            "lower",
            human_vision.load_butteraugli,
            f"Butteraugli needs {human_vision.MIN_SIDE_BUTTERAUGLI} pixels a side",
        ),
        Metric(
            "cvvdp",
            "ColorVideoVDP",
            "JOD",
            "higher",
            human_vision.load_cvvdp,
            f"ColorVideoVDP needs {human_vision.MIN_SIDE_CVVDP} pixels a side",
        ),
        Metric("flip", "FLIP", "", "lower", human_vision.load_flip),
        Metric(
            "lpips-alex",
            "LPIPS (AlexNet)",
            "",
            "lower",
            partial(perceptual.load_lpips, "alex"),
            takes_device=True,
        ),
        Metric(
            "lpips-unscaled",
            "LPIPS (AlexNet), fed 0..1",
            "",
            "lower",
            partial(perceptual.load_lpips, "alex", scaled=False),
            takes_device=True,
        ),
        Metric(
            "lpips-vgg", "LPIPS (VGG)", "", "lower", partial(perceptual.load_lpips, "vgg"), takes_device=True
        ),
        Metric("dists", "DISTS", "", "lower", perceptual.load_dists, takes_device=True),
        Metric(
            "clip-score",
            "CLIP score",
            "",
            "higher",
            partial(perceptual.load_clip_score, False),
            "a CLIP score needs a caption",
            takes_device=True,
        ),
        Metric(
            "ref-clip-score",
            "reference CLIP score",
            "",
            "higher",
            partial(perceptual.load_clip_score, True),
            "a reference CLIP score needs two captions",
            takes_device=True,
        ),
        Metric("nima", "NIMA", "", "higher", perceptual.load_nima, takes_device=True),
        Metric(
            "psnr-named",
            "PSNR of the objects that the caption names",
            "dB",
            "higher",
            lambda: lambda pair: psnr_in_boxes(pair, True),
            "psnr-named needs a box of something that the caption names",
            needs="named",
        ),
        Metric(
            "psnr-rest",
            "PSNR of the rest",
            "dB",
            "higher",
            lambda: lambda pair: psnr_in_boxes(pair, False),
            "psnr-rest needs pixels outside the boxes of what the caption names",
            needs="named",
        ),
        Metric(
            "psnr-objects",
            "PSNR of the annotated objects",
            "dB",
            "higher",
            lambda: psnr_of_objects,
            NO_OBJECTS,
            needs="objects",
        ),
        Metric(
            "ssimulacra2-objects",
            "SSIMULACRA2 of the annotated objects",
            "",
            "higher",
            partial(mean_over_objects, _load_ssimulacra2),
            NO_OBJECTS,
            needs="objects",
        ),
        Metric(
            "butteraugli-objects",
            "Butteraugli (3-norm) of the annotated objects",
            "",
            "lower",
            partial(mean_over_objects, human_vision.load_butteraugli),
            NO_OBJECTS,
            needs="objects",
        ),
        Metric(
            "tower",
            "distance in the image encoder",
            "",
            "lower",
            perceptual.load_encoder_distance,
            takes_device=True,
        ),
    )
}
ALIASES = {"lpips": "lpips-alex"}
