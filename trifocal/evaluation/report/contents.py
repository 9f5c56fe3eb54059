"""The contents of a report: curves, comparisons, crops, speeds and layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trifocal.detection.detections import Pixels
from trifocal.errors import OptionError
from trifocal.evaluation.report.curves import Curve
from trifocal.evaluation.report.plots import MetricInfo, is_ms_ssim
from trifocal.evaluation.text_ablation import TextEffect

__all__ = ["Crop", "CurveComparison", "LayerBytes", "Panel", "ReportData", "Speed"]


@dataclass(frozen=True)
class Panel:
    """A crop of one codec's decoded image.

    Attributes:
        title: of the codec.
        bytes: of the whole file; 0 for the original.
        bpp: of the whole file.
        values: metrics of the whole image by name.
        rgb: the crop, uint8 [h, w, 3].
    """

    title: str
    bytes: int
    bpp: float
    values: dict[str, float]
    rgb: Pixels


@dataclass(frozen=True)
class Crop:
    """The same region of the original and of each codec's decoded image, at equal bytes.

    Attributes:
        picture: the name of the image.
        why: reason for the choice: "worst", "median" or "best", and the rate.
        box: left, top, right, bottom in pixels.
        panels: the original first.
    """

    picture: str
    why: str
    box: tuple[int, int, int, int]
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class CurveComparison:
    """A codec compared with an anchor; None if the curves do not overlap.

    Attributes:
        bd_rate: in percent; -10 means 10 % fewer bytes at the same metric.
        bd_metric: above 0 if the codec is better at the same bytes; in dB for MS-SSIM.
        overlap: the interval of the metric that bd_rate covers, on its natural scale or that of
            `Metric.scaled`.
    """

    codec: str
    anchor: str
    metric: str
    bd_rate: float | None
    bd_metric: float | None
    overlap: tuple[float, float] | None


@dataclass(frozen=True)
class Speed:
    """Median seconds per image, their ratios to those of the reference codec, and peak memory."""

    codec: str
    encode_s: float | None
    decode_s: float | None
    relative_encode: float | None
    relative_decode: float | None
    peak_bytes: int | None


@dataclass(frozen=True)
class LayerBytes:
    """Mean bytes of each layer of a codec's files at one quality."""

    codec: str
    quality: float
    layers: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.layers.values())


@dataclass(frozen=True)
class ReportData:
    """All contents of a report.

    Attributes:
        pictures: image count.
        folder: of the images.
        curves, published: by the metric's name, values on its natural scale (MS-SSIM 0..1).
        notes: notices: what failed, what was not measured, and how to measure it.
        own: the codecs of `curves` that are drawn most prominently; if empty, those that begin with
            "Trifocal".
        text_effects: the differences between kinds of text.
    """

    title: str
    command: str
    machine: str
    date: str
    pictures: int
    folder: str
    metrics: tuple[MetricInfo, ...]
    curves: dict[str, list[Curve]]
    published: dict[str, list[Curve]]
    differences: list[CurveComparison]
    speeds: list[Speed]
    layers: list[LayerBytes]
    crops: list[Crop]
    notes: list[str]
    own: tuple[str, ...] = ()
    text_effects: tuple[TextEffect, ...] = ()

    def is_highlighted(self, codec: str) -> bool:
        """Whether the curves of a codec are drawn most prominently."""
        return codec in self.own if self.own else codec.startswith("Trifocal")

    def check(self) -> None:
        """Raises OptionError if parts contradict each other."""
        known = {metric.name for metric in self.metrics}
        panels = [panel for crop in self.crops for panel in crop.panels]
        used = {*self.curves, *self.published, *(one.metric for one in self.differences)}
        used.update((effect.metric for effect in self.text_effects), *(panel.values for panel in panels))
        if unknown := used - known:
            raise OptionError(f"The report uses metrics that it does not list: {', '.join(sorted(unknown))}.")
        for metric in filter(is_ms_ssim, self.metrics):
            for curve in [*self.curves.get(metric.name, []), *self.published.get(metric.name, [])]:
                if max(curve.values, default=0) > 1.001:
                    raise OptionError(f"{metric.title} is 0 to 1 in a report; {curve.name} has it in dB.")
        for panel in panels:
            if panel.rgb.dtype != np.uint8 or panel.rgb.ndim != 3 or panel.rgb.shape[2] != 3:
                raise OptionError(
                    f"A crop is 8-bit RGB, not {panel.rgb.dtype} {list(panel.rgb.shape)} ({panel.title})."
                )
