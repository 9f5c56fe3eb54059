"""The tables of a report: curves, their comparisons, speeds, and bytes of layers."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trifocal.container import Bitstream, describe
from trifocal.container.text import normalise_text
from trifocal.errors import OptionError, TrifocalError
from trifocal.evaluation.candidates.candidate import candidate_for
from trifocal.evaluation.candidates.factory import create_candidate
from trifocal.evaluation.candidates.variant import Variant
from trifocal.evaluation.images import find_images, open_image, relative_name
from trifocal.evaluation.metrics.per_image import Metric
from trifocal.evaluation.peak_memory import peak_memory, processor
from trifocal.evaluation.report.contents import CurveComparison, LayerBytes, Speed
from trifocal.evaluation.report.crops import image_path
from trifocal.evaluation.report.curves import Curve, bd_metric, bd_rate
from trifocal.evaluation.report.results_table import ImageResult, MeanResult
from trifocal.evaluation.text_ablation import TEXTLESS_BPP, TextKinds

__all__ = ["compare_curves", "layer_bytes", "measure_speeds", "scaled_curves", "system_description"]


def scaled_curves(
    metric: Metric, names: Sequence[str], means: Sequence[MeanResult], without_text_bits: bool = False
) -> list[Curve]:
    """The curve of each codec, on the scale of `Metric.scaled`; codecs without points are left out.

    With `without_text_bits`, stored text does not count as bits.
    """
    curves = []
    for name in names:
        values = [
            (_rate(mean, without_text_bits), mean.values.get(metric.column))
            for mean in means
            if mean.preset == name
        ]
        points = [(bpp, metric.scaled(value)) for bpp, value in values if value is not None]
        if points:
            curves.append(Curve.from_points(name, points))
    return curves


def _rate(mean: MeanResult, without_text_bits: bool) -> float:
    textless = mean.values.get(TEXTLESS_BPP) if without_text_bits else None
    return mean.bpp if textless is None else textless


def compare_curves(
    metric: Metric, measured: Sequence[Curve], published: Sequence[Curve]
) -> Iterator[CurveComparison]:
    """Compare each measured codec with all others, and with the published ones."""
    for curve in measured:
        for anchor in [*(other for other in measured if other is not curve), *published]:
            rate, gain = bd_rate(anchor, curve, metric.scaled_limits), bd_metric(anchor, curve)
            yield CurveComparison(curve.name, anchor.name, metric.name, rate.value, gain.value, rate.overlap)


def measure_speeds(
    variants: Sequence[Variant],
    data: Path,
    rows: Sequence[ImageResult],
    texts: TextKinds,
    square: int | None = None,
) -> list[Speed]:
    """Median times over images and qualities, ratios to the first variant, and peak memory on the largest
    image; without peak memory if images are cropped to a square, which the other process does not do.
    """
    largest = max(rows, key=lambda row: row.width * row.height)
    medians = [
        tuple(
            statistics.median(getattr(row, column) for row in rows if row.preset == variant.name)
            for column in ("encode_s", "decode_s")
        )
        for variant in variants
    ]
    first = medians[0]
    return [
        Speed(
            variant.title,
            encode,
            decode,
            encode / first[0],
            decode / first[1],
            None if square else _peak(variant, data, largest.picture, texts),
        )
        for variant, (encode, decode) in zip(variants, medians)
    ]


def _peak(variant: Variant, data: Path, name: str, texts: TextKinds, quality: float = 50.0) -> int | None:
    """Peak memory on an image in bytes; None if it cannot be measured."""
    text = None
    if variant.text is not None:
        try:
            text = texts.text(variant.text, name)
        except OptionError:
            return None
    return peak_memory(
        variant, image_path(data, name), quality, None if text is None else normalise_text(text)
    )


def layer_bytes(
    variant: Variant,
    data: Path,
    texts: TextKinds,
    quality: float = 50.0,
    count: int = 24,
    square: int | None = None,
) -> list[LayerBytes]:
    """Mean bytes of the header and of each layer of a preset's files, over the first `count` images."""
    candidate = create_candidate(variant, texts, data)
    sizes: dict[str, list[int]] = {}
    for path in find_images(data)[:count]:
        try:
            coder = candidate_for(candidate, relative_name(path, data))
            file = coder.encode(open_image(path, square), quality)
        except (TrifocalError, OSError):
            continue  # `evaluate` has reported it
        entries: Any = describe(Bitstream.from_bytes(file))["layers"]
        layers = {str(layer["name"]): int(layer["bytes"]) for layer in entries}
        for layer, size in {**layers, "header": len(file) - sum(layers.values())}.items():
            sizes.setdefault(layer, []).append(size)
    if not sizes:
        return []
    return [
        LayerBytes(variant.title, quality, {layer: statistics.fmean(all_) for layer, all_ in sizes.items()})
    ]


def system_description() -> str:
    """Processor, operating system and Python version of this computer."""
    return f"{os.cpu_count()} cores of {processor()}, {platform.system()}, Python {platform.python_version()}"
