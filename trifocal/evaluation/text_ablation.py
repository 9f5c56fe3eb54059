"""Text ablation: the effect of captions, empty text, captions of other images, and no text.

The comparison is paired: the Bjøntegaard difference between two kinds of text on each image's own curves, and
the mean of these differences over the images with a bootstrap interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from trifocal.errors import OptionError
from trifocal.evaluation.candidates.variant import TEXT_KINDS, TextKind, split_text_kind
from trifocal.evaluation.metrics.per_image import Metric, find_metric
from trifocal.evaluation.report.curves import Curve, bd_metric
from trifocal.evaluation.report.results_table import ImageResult
from trifocal.utils.files import write_csv

__all__ = [
    "TEXTLESS_BPP",
    "TEXT_BYTES",
    "PairedDifference",
    "TextEffect",
    "TextKinds",
    "image_curves",
    "paired_difference",
    "text_effects",
    "write_effects",
]

TEXT_BYTES, TEXTLESS_BPP = "text_bytes", "textless_bpp"  # columns: bytes of stored text, bpp without them
RESAMPLES = 10_000
CONFIDENCE = 0.95
SEED = 4
BATCH = 1_000_000  # random numbers at a time


class TextKinds:
    """The text of each kind for the images of a folder.

    "true" is the first caption of an image, "empty" an empty text, "mismatched" the first caption of another
    image, and "none" no text. "best" is an oracle: the image is coded with each of its captions, and the file
    is kept whose decoded image is nearest to the original. TACO's figures on COCO are of this kind: the best
    of five captions by LPIPS.

    Args:
        captions: by file name.
        images: names with forward slashes.
        best_by: the metric that chooses the "best" text.
    """

    def __init__(
        self, captions: Mapping[str, Sequence[str]], images: Iterable[str], best_by: str = "lpips"
    ) -> None:
        self.best_by = find_metric(best_by)
        known = {image: captions.get(PurePosixPath(image).name, ()) for image in sorted(images)}
        self.captions = {image: texts for image, texts in known.items() if texts}

    def check(self, kind: TextKind) -> None:
        """Raise OptionError if no image has text of this kind."""
        if kind in ("best", "true", "mismatched") and not self.captions:
            raise OptionError(
                f"Text of the kind {kind!r} needs a captions.json with captions of these images, in their "
                "folder or above it, or a file named with --captions."
            )

    def text(self, kind: TextKind, image: str) -> str | None:
        """The text of a kind for an image; None for no text.

        Mismatched text is the first caption of the next image by name whose caption the image does not have.
        For "best" it is the first of `choices`.

        Raises:
            OptionError: if the image has no caption, or no other image has another one.
        """
        if kind in ("empty", "none"):
            return "" if kind == "empty" else None
        own, names = self.choices(image), list(self.captions)
        if kind in ("best", "true"):
            return own[0]
        place = names.index(image)
        for other in [*names[place + 1 :], *names[:place]]:
            if self.captions[other][0] not in own:
                return self.captions[other][0]
        raise OptionError(f"{image} has no mismatched text: no other image has another caption.")

    def choices(self, image: str) -> Sequence[str]:
        """The captions of an image. Raises OptionError if it has none."""
        if image not in self.captions:
            raise OptionError(f"{image} has no caption, so no true, best or mismatched text.")
        return self.captions[image]


@dataclass(frozen=True)
class PairedDifference:
    """The mean over images of a difference at equal bytes, and its interval. Above 0, the first codec is
    better.

    Attributes:
        mean: on the scale of `Metric.scaled`; None if no image has two curves that overlap.
        low, high: the 95 % interval, from the percentiles of RESAMPLES bootstrap samples of the images (Efron
            1979); None with fewer than two images. With few images it is too narrow.
        pictures: the number of images that were compared.
    """

    mean: float | None
    low: float | None
    high: float | None
    pictures: int


@dataclass(frozen=True)
class TextEffect:
    """The difference between two kinds of text, for a preset and a metric.

    Attributes:
        text, against: the two kinds.
        counted: whether stored text counts as bytes of the file.
    """

    preset: str
    metric: str
    text: str
    against: str
    counted: bool
    paired: PairedDifference

    @property
    def sentence(self) -> str:
        """The conclusion from the interval."""
        names = {"none": "no text", "best": "best text (chosen with the original)"}
        one, other = (names.get(kind, f"{kind} text") for kind in (self.text, self.against))
        low, high = self.paired.low, self.paired.high
        if low is None or high is None:
            message = f"{one} and {other} cannot be compared: fewer than two images have curves that overlap."
            return message.capitalize()
        if low <= 0 <= high:
            return f"The interval includes zero: no difference between {one} and {other}."
        return f"The interval excludes zero: {one} is {'better' if low > 0 else 'worse'} than {other}."


def paired_difference(
    rows: Sequence[ImageResult], metric: Metric, a: str, b: str, count_text_bytes: bool = True
) -> PairedDifference:
    """How much better `a` is than `b` at equal bytes, image by image.

    Args:
        rows: of at least two qualities for each image.
        metric: what is compared.
        a, b: candidates by their names in tables, such as taco-compact:true.
        count_text_bytes: whether stored text counts; otherwise the rate is `textless_bpp`.

    Raises:
        MissingExtra: without scipy.
    """
    ours, theirs = (image_curves(rows, metric, name, count_text_bytes) for name in (a, b))
    gains = [bd_metric(theirs[image], ours[image]).value for image in ours if image in theirs]
    known = np.array([gain for gain in gains if gain is not None])
    if len(known) < 2:
        return PairedDifference(float(known[0]) if len(known) else None, None, None, len(known))
    low, high = bootstrap_interval(known)
    return PairedDifference(float(known.mean()), low, high, len(known))


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of at least two values."""
    from scipy.stats import bootstrap

    result = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH // len(values)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def image_curves(
    rows: Iterable[ImageResult], metric: Metric, codec: str, count_text_bytes: bool = True
) -> dict[str, Curve]:
    """A codec's curve on each image, on the scale of `Metric.scaled`."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        value = row.values.get(metric.column)
        rate = row.bpp if count_text_bytes else row.values.get(TEXTLESS_BPP)
        if row.preset == codec and value is not None and rate is not None:
            points.setdefault(row.picture, []).append((rate, metric.scaled(value)))
    return {image: Curve.from_points(codec, pairs) for image, pairs in points.items()}


def text_effects(rows: Sequence[ImageResult], metrics: Sequence[Metric]) -> list[TextEffect]:
    """The differences between all kinds of text that a preset was measured with, for each preset and metric.

    For stored text there are two effects, with and without its bytes. With a single quality there are none.
    """
    kinds: dict[str, set[TextKind]] = {}
    sent, qualities = set(), set()
    for row in rows:
        preset, kind = split_text_kind(row.preset)
        if kind is not None:
            kinds.setdefault(preset, set()).add(kind)
            qualities.add(row.quality)
            sent |= {preset} if row.values.get(TEXT_BYTES) else set()
    if len(qualities) < 2:
        return []
    return [
        TextEffect(
            preset,
            metric.name,
            one,
            other,
            counted,
            paired_difference(rows, metric, f"{preset}:{one}", f"{preset}:{other}", counted),
        )
        for preset, measured in kinds.items()
        for metric in metrics
        for one, other in combinations(sorted(measured, key=TEXT_KINDS.index), 2)
        for counted in ((True, False) if preset in sent else (True,))
    ]


def write_effects(path: Path, effects: Iterable[TextEffect]) -> None:
    """Write effects as CSV, atomically. Raises OSError."""
    heading = ("preset", "metric", "words", "against", "text_counted", "mean", "low", "high", "pictures")
    write_csv(path, [heading, *map(_cells, effects)])


def _cells(one: TextEffect) -> tuple[object, ...]:
    numbers = (one.paired.mean, one.paired.low, one.paired.high)
    cells = ("" if number is None else f"{number:.6g}" for number in numbers)
    counted = "yes" if one.counted else "no"
    return one.preset, one.metric, one.text, one.against, counted, *cells, one.paired.pictures
