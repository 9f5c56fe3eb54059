"""Does the text do anything? The same pictures with their own words, with empty ones, with another's and with none.

The answer is paired: for each picture the difference between two kinds of words at equal bytes (Bjøntegaard's, over the
picture's own curves), and of these differences the mean with its confidence interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from trifocal.errors import OptionError
from trifocal.evaluation.metrics.per_image import Metric
from trifocal.evaluation.report.curves import Curve, bd_metric
from trifocal.evaluation.report.results_table import Row
from trifocal.utils.files import write_csv

__all__ = [
    "KINDS",
    "TEXTLESS_BPP",
    "TEXT_BYTES",
    "PairedDifference",
    "TextEffect",
    "TextKinds",
    "curves_of",
    "effects_of",
    "paired",
    "write_effects",
]

KINDS = ("true", "empty", "mismatched", "none")
TEXT_BYTES, TEXTLESS_BPP = (
    "text_bytes",
    "textless_bpp",
)  # columns: of the words in a file, and bpp without them
RESAMPLES = 10_000
CONFIDENCE = 0.95
SEED = 4
AT_ONCE = 1_000_000  # numbers that are drawn at a time


class TextKinds:
    """What each picture of a folder is said to show.

    Args:
        captions: by file name; a picture's first is its true one.
        pictures: their names, with forward slashes.
    """

    def __init__(self, captions: Mapping[str, Sequence[str]], pictures: Iterable[str]) -> None:
        known = {picture: captions.get(PurePosixPath(picture).name, ()) for picture in sorted(pictures)}
        self.captions = {picture: said for picture, said in known.items() if said}

    def check(self, kind: str) -> None:
        """Raises OptionError where no picture has words of this kind."""
        if kind in ("true", "mismatched") and not self.captions:
            raise OptionError(
                f"Words that are {kind} come from a captions.json in the folder of the pictures or above it, and there is "
                "none that knows them."
            )

    def text(self, kind: str, picture: str) -> str | None:
        """The words of one of KINDS for a picture; None for none at all.

        Mismatched words are the caption of the next picture, by name, to which this one's captions do not fit.

        Raises:
            OptionError: where the picture has no caption, or no other picture has another one.
        """
        if kind in ("empty", "none"):
            return "" if kind == "empty" else None
        if picture not in self.captions:
            raise OptionError(f"{picture} has no caption in captions.json, so no true or mismatched words.")
        own, names = self.captions[picture], list(self.captions)
        if kind == "true":
            return own[0]
        place = names.index(picture)
        for other in [*names[place + 1 :], *names[:place]]:
            if self.captions[other][0] not in own:
                return self.captions[other][0]
        raise OptionError(f"{picture} has no mismatched words: no other picture has another caption.")


@dataclass(frozen=True)
class PairedDifference:
    """The mean over pictures of a difference at equal bytes, above 0 where the first is better, and its interval.

    Attributes:
        mean: on the scale of `Metric.scaled`; None where no picture has two curves that overlap.
        low, high: the 95 % interval, from RESAMPLES bootstrap samples of the pictures by their percentiles (Efron 1979);
            None with fewer than two pictures. With few it is too narrow.
        pictures: that were compared.
    """

    mean: float | None
    low: float | None
    high: float | None
    pictures: int


@dataclass(frozen=True)
class TextEffect:
    """What one kind of words changes against another, for a preset and a metric.

    Attributes:
        counted: whether the words that are sent count as bytes of the file.
    """

    preset: str
    metric: str
    words: str
    against: str
    counted: bool
    paired: PairedDifference

    @property
    def sentence(self) -> str:
        """Whether there is a difference."""
        one, other = (
            "no words" if kind == "none" else f"{kind} words" for kind in (self.words, self.against)
        )
        low, high = self.paired.low, self.paired.high
        if low is None or high is None:
            return f"Nothing can be said of {one} against {other}: fewer than two pictures have curves that overlap."
        if low <= 0 <= high:
            return f"The interval includes zero: no difference of {one} from {other} is shown."
        return f"The interval excludes zero: {one} are {'better' if low > 0 else 'worse'} than {other}."


def paired(rows: Sequence[Row], metric: Metric, a: str, b: str, counted: bool = True) -> PairedDifference:
    """How much better `a` is than `b` at equal bytes, both as tables name them (taco-compact:true), picture by picture.

    Args:
        rows: of two qualities or more for each picture.
        metric: what is compared.
        a, b: codecs.
        counted: whether words that are sent count; else the rate is `textless_bpp`.

    Raises:
        MissingExtra: without scipy.
    """
    ours, theirs = (curves_of(rows, metric, name, counted) for name in (a, b))
    gains = [bd_metric(theirs[picture], ours[picture]).value for picture in ours if picture in theirs]
    found = np.array([gain for gain in gains if gain is not None])
    if len(found) < 2:
        return PairedDifference(float(found[0]) if len(found) else None, None, None, len(found))
    low, high = interval(found)
    return PairedDifference(float(found.mean()), low, high, len(found))


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The percentiles of the means of resampled values."""
    random, count, means = np.random.default_rng(SEED), len(values), []
    step = max(1, AT_ONCE // count)
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start), count
        means.append(values[random.integers(count, size=size)].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def curves_of(rows: Iterable[Row], metric: Metric, codec: str, counted: bool = True) -> dict[str, Curve]:
    """A codec's curve on each picture, on the scale of comparison."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        value = row.values.get(metric.column)
        rate = row.bpp if counted else row.values.get(TEXTLESS_BPP)
        if row.preset == codec and value is not None and rate is not None:
            points.setdefault(row.picture, []).append((rate, metric.scaled(value)))
    return {picture: Curve.of(codec, pairs) for picture, pairs in points.items()}


def effects_of(rows: Sequence[Row], metrics: Sequence[Metric]) -> list[TextEffect]:
    """Every kind of words against every other, for each preset that was measured with several, and each metric of rows.

    Where words were sent there are two effects, with and without their bytes. There are none of a single quality.
    """
    kinds: dict[str, set[str]] = {}
    sent, qualities = set(), set()
    for row in rows:
        preset, _, kind = row.preset.partition(":")
        if kind in KINDS:
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
            paired(rows, metric, f"{preset}:{one}", f"{preset}:{other}", counted),
        )
        for preset, found in kinds.items()
        for metric in metrics
        for one, other in combinations(sorted(found, key=KINDS.index), 2)
        for counted in ((True, False) if preset in sent else (True,))
    ]


def write_effects(path: Path, effects: Iterable[TextEffect]) -> None:
    """As CSV, at once or not at all. Raises OSError."""
    heading = ("preset", "metric", "words", "against", "text_counted", "mean", "low", "high", "pictures")
    write_csv(path, [heading, *map(cells_of, effects)])


def cells_of(one: TextEffect) -> tuple[object, ...]:
    numbers = (one.paired.mean, one.paired.low, one.paired.high)
    cells = ("" if number is None else f"{number:.6g}" for number in numbers)
    counted = "yes" if one.counted else "no"
    return one.preset, one.metric, one.words, one.against, counted, *cells, one.paired.pictures
