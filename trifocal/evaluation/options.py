"""The options of `evaluate` and `compare`, checked when they are made."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trifocal.errors import OptionError
from trifocal.evaluation.candidates.variant import TEXT_KINDS, TextKind, check_device
from trifocal.evaluation.metrics.distribution import DISTRIBUTION_METRICS
from trifocal.evaluation.metrics.per_image import find_metric
from trifocal.evaluation.tasks.task import Task

__all__ = ["DEFAULT_METRICS", "QUALITIES", "CompareOptions", "EvaluateOptions"]

QUALITIES = (10.0, 30.0, 50.0, 70.0, 90.0)
DEFAULT_METRICS = ("psnr", "ms-ssim")


@dataclass(frozen=True)
class EvaluateOptions:
    """What `evaluate` measures, and how.

    Attributes:
        qualities: 0..100, for all candidates, or for each by its name in tables.
        metrics: names of METRICS and DISTRIBUTION_METRICS. A metric that this machine cannot measure is left
            out with a notice.
        task: a machine task that is measured too (see `create_task`), also on the originals, as PNG at
            quality 100.
        text: kinds of text (see `TextKinds`). Each preset that reads text is measured with each of them, as
            preset:kind. Text that the decoder reads is stored in the file and counted.
        captions: a file with captions, instead of captions.json, as `captions_for` reads it.
        best_by: the metric by which text of the kind "best" is chosen.
        square: the short side to which each image is resized before its centre is cropped to a square, in
            pixels; see `open_image`.
        layers: "base" measures scalable presets by their base layer alone, as preset:base, at base qualities.
        preferences: 0 (people) to 1 (machines). Each preset whose decoder takes one is measured with each, as
            preset:0.5.
        device: of the presets, as torch names it; a CUDA device runs the metrics' networks too.
        resume: keep the rows that the output file already has, unless the weights of their preset have
            changed.

    Raises:
        OptionError: for a value out of range, an unknown name, or a device that cannot be used.
    """

    qualities: Sequence[float] | Mapping[str, Sequence[float]] = QUALITIES
    metrics: Sequence[str] = DEFAULT_METRICS
    task: Task | None = None
    text: Sequence[TextKind] = ()
    captions: str | None = None
    best_by: str = "lpips"
    square: int | None = None
    layers: str | None = None
    preferences: Sequence[float] = ()
    device: str = "cpu"
    resume: bool = False

    def __post_init__(self) -> None:
        by_name = isinstance(self.qualities, Mapping)
        groups = self.qualities.values() if isinstance(self.qualities, Mapping) else [self.qualities]
        if not by_name and not self.qualities:
            raise OptionError("Choose at least one quality.")
        for quality in (quality for group in groups for quality in group):
            if not 0 <= quality <= 100:
                raise OptionError(f"A quality is 0 to 100, not {quality:g}.")
        for name in self.metrics:
            if name not in DISTRIBUTION_METRICS:
                find_metric(name)
        for kind in self.text:
            if kind not in TEXT_KINDS:
                raise OptionError(f"There is no kind of text {kind!r}; choose from: {', '.join(TEXT_KINDS)}.")
        find_metric(self.best_by)
        if self.square is not None and self.square < 1:
            raise OptionError(f"The side of a square is 1 pixel or more, not {self.square}.")
        if self.square is not None and self.task is not None:
            raise OptionError("--square crops the images, so annotations do not fit; omit it or --task.")
        if self.layers not in (None, "base"):
            raise OptionError(f'--layers accepts only "base", not {self.layers!r}.')
        for preference in self.preferences:
            if not 0 <= preference <= 1:
                raise OptionError(f"A preference is 0 (people) to 1 (machines), not {preference:g}.")
        check_device(self.device)

    def qualities_by_candidate(self, only: Mapping[str, float | None]) -> dict[str, list[float]]:
        """The qualities of each candidate by its name, rising.

        Args:
            only: the quality of candidates that have a single one, by name; None for all others.

        Raises:
            OptionError: if there are no candidates, or a candidate has no quality.
        """
        qualities: dict[str, list[float]] = {}
        for name, quality in only.items():
            given = self.qualities.get(name, ()) if isinstance(self.qualities, Mapping) else self.qualities
            qualities[name] = sorted(set(map(float, given))) if quality is None else [quality]
            if not qualities[name]:
                raise OptionError(f"Choose at least one quality for {name}.")
        if not qualities:
            raise OptionError("Name at least one preset or format to measure.")
        return qualities


@dataclass(frozen=True)
class CompareOptions(EvaluateOptions):
    """What `compare` measures and shows.

    Attributes:
        crops: PICTURE:X,Y,WIDTH,HEIGHT in pixels, or PICTURE for the window with the largest error of the
            first candidate. By default the images where the first candidate is worst, median
            and best against the second.
        published: further curves to plot, as `published_curves` reads them.
        without_text_bits: count bits without the text that files store, as Cross-modal does (section 2: the
            decoder has the text from elsewhere).
    """

    crops: Sequence[str] = ()
    published: Sequence[str | os.PathLike[str]] = ()
    without_text_bits: bool = False
