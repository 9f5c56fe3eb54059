"""Measure codecs on real files: encode each image, write the file, read it back, decode it and compare."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from trifocal.errors import PictureError, TrifocalError
from trifocal.evaluation.candidates.candidate import (
    Candidate,
    PerImageCandidate,
    candidate_for,
    decoded_image,
    text_bytes,
)
from trifocal.evaluation.candidates.factory import create_candidate, distinct_candidates, only_quality
from trifocal.evaluation.candidates.variant import Variant
from trifocal.evaluation.images import find_images, open_image, relative_name
from trifocal.evaluation.metrics.metric_set import DatasetMetric, DecodedImage, MetricSet
from trifocal.evaluation.options import EvaluateOptions
from trifocal.evaluation.report.results_table import (
    ImageResult,
    MeanResult,
    ResultsFile,
    mean_results,
    read_means,
    summary_path,
    write_means,
)
from trifocal.evaluation.text_ablation import (
    TEXT_BYTES,
    TEXTLESS_BPP,
    TextEffect,
    TextKinds,
    text_effects,
    write_effects,
)
from trifocal.pictures import Picture
from trifocal.preset_table import Preset

__all__ = ["EvaluationResults", "evaluate"]

ALPHA_NOTE = "alpha is coded, not compared"
SQUARE_NOTE = "resized and cropped to a square of "
Result = TypeVar("Result")


@dataclass(frozen=True)
class EvaluationResults:
    """Results of one call: rows that were measured now, and rows that were kept from the output file.

    Attributes:
        rows: one per candidate, image and quality.
        means: over the images, with metrics of the whole set.
        effects: of the kinds of text, if several were measured.
        failures: a sentence for each candidate or image that could not be measured.
    """

    rows: list[ImageResult]
    means: list[MeanResult]
    effects: list[TextEffect] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def evaluate(
    candidates: Sequence[str | Preset | Candidate],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: EvaluateOptions | None = None,
    *,
    raise_failures: bool = True,
    progress: Callable[[float], None] | None = None,
    notify: Callable[[str], None] | None = None,
) -> EvaluationResults:
    """Measure each candidate on each image of a folder at each quality.

    A candidate that fails does not stop the others.

    Args:
        candidates: presets, formats (avif, webp, jpeg ...), their variants, and LABEL=PRESET:WEIGHTS for a
            preset with the weights of a .safetensors file; see `candidates.variant`. Or objects with the
            interface `Candidate`.
        data: the folder of the images.
        out: the CSV file of the rows. Means are written to the file whose name ends in _summary.csv, and the
            effects of several kinds of text to the one that ends in _words.csv.
        options: what to measure; None for the defaults.
        raise_failures: if False, what failed is only in the results.
        progress: called with the fraction done, 0..1.
        notify: called with a sentence for each failure, and for each metric or image that was left out.

    Raises:
        OptionError, PresetError, WeightsError: for options, names, a folder without images and custom
            weights, before anything is measured.
        PictureError: at the end, if something failed and `raise_failures` is true.
    """
    options = options or EvaluateOptions()
    chosen = distinct_candidates(candidates, options)
    run = open_run(chosen, Path(data), Path(out), options, notify or (lambda sentence: None))
    for number, candidate in enumerate(chosen):
        for fraction in run.measure(candidate):
            if progress is not None:
                progress((number + fraction) / len(chosen))
    results = run.results()
    if results.failures and raise_failures:
        failures = results.failures if notify is None else [f"{len(results.failures)} failed."]
        rest = f"All other rows are in {out}." if results.rows else "Nothing was measured."
        raise PictureError(f"{' '.join(failures)} {rest}")
    return results


def open_run(
    chosen: Sequence[Variant | Candidate],
    data: Path,
    out: Path,
    options: EvaluateOptions,
    notify: Callable[[str], None],
) -> EvaluationRun:
    """Load the metrics, and issue the notices about the choice of candidates. Raises as `evaluate`."""
    images = find_images(data)
    only = {candidate.name: only_quality(candidate) for candidate in chosen}
    qualities_by_candidate = options.qualities_by_candidate(only)
    has_text = any(isinstance(variant, Variant) and variant.text is not None for variant in chosen)
    metrics = MetricSet(
        options.metrics, options.task, data, notify, has_text, options.captions, options.device
    )
    run = EvaluationRun(data, images, qualities_by_candidate, metrics, out, options)
    if any(isinstance(variant, Variant) and variant.text == "best" for variant in chosen):
        run.notify_once(
            "The best text is an oracle: of the captions of each image, it is the one whose decoded image is "
            f"nearest to the original by {run.texts.best_by.title}."
        )
    if len(set(options.text)) > 1 and max(map(len, qualities_by_candidate.values())) == 1:
        run.notify_once("The effect of text is a difference between curves: measure at least two qualities.")
    return run


class EvaluationRun:
    """The state of one call of `evaluate`.

    Args:
        root: the folder of the images.
        images: their paths.
        qualities_by_candidate: the qualities of each candidate by its name.
        metrics: the loaded metrics.
        out: the CSV file.
        options: of `evaluate`.
    """

    def __init__(
        self,
        root: Path,
        images: Sequence[Path],
        qualities_by_candidate: Mapping[str, Sequence[float]],
        metrics: MetricSet,
        out: Path,
        options: EvaluateOptions,
    ) -> None:
        resume = options.resume
        self.square = options.square
        self.root, self.images, self.qualities, self.metrics = root, images, qualities_by_candidate, metrics
        names = [relative_name(path, root) for path in images]
        self.texts = TextKinds(metrics.captions, names, options.best_by)
        self.file = ResultsFile(out, resume, metrics.columns)
        self.summary = summary_path(out)
        self.effects_file = out.with_name(f"{out.stem}_words.csv")
        self.old_means = read_means(self.summary) if resume and self.summary.exists() else []
        self.rows: list[ImageResult] = []
        self.dataset_values: dict[tuple[str, float], dict[str, float | None]] = {}
        self.failures: list[str] = []
        self.issued: list[str] = []

    def notify_once(self, sentence: str) -> None:
        """Report a sentence once."""
        if sentence not in self.issued:
            self.issued.append(sentence)
            self.metrics.notify(sentence)

    def measure(self, chosen: Variant | Candidate) -> Iterator[float]:
        """Measure one candidate; yields the fraction done after each image."""
        candidate = (
            self._attempt(chosen.name, create_candidate, chosen, self.texts, self.root)
            if isinstance(chosen, Variant)
            else chosen
        )
        if candidate is None:
            yield 1.0
            return
        known = self._reusable_rows(candidate)
        qualities = self.qualities[candidate.name]
        total = len(qualities) * len(self.images)
        with tempfile.TemporaryDirectory(prefix="trifocal-") as folder:
            for place, quality in enumerate(qualities):
                pending = self._pending_metrics(candidate, quality, known)
                for number, path in enumerate(self.images, start=place * len(self.images) + 1):
                    self._measure_image(candidate, path, quality, known, pending, Path(folder) / "file")
                    yield number / total
                for metric in pending:
                    values = self._attempt(f"{candidate.name}, quality {quality:g}", metric.result)
                    self.dataset_values.setdefault((candidate.name, quality), {}).update(values or {})
                    for sentence in metric.notices():
                        self.notify_once(sentence)
                if pending:
                    self._write_means()

    def results(self) -> EvaluationResults:
        """Write and return the means, and the effects of text."""
        means = self._means()
        if means:
            write_means(self.summary, means)
        effects = text_effects(self.rows, list(self.metrics.per_image))
        if effects:
            write_effects(self.effects_file, effects)
        return EvaluationResults(self.rows, means, effects, self.failures)

    def _reusable_rows(
        self, candidate: Candidate | PerImageCandidate
    ) -> dict[tuple[str, float], ImageResult]:
        """The rows of this candidate in the output file that have the same weights and all metrics."""
        rows = [row for row in self.file.rows if row.preset == candidate.name]
        stale = [row for row in rows if row.weights != candidate.weights]
        if stale:
            self.metrics.notify(
                f"{len(stale)} rows of {candidate.name} are dropped: they have other weights."
            )
        partial = [
            row
            for row in rows
            if row not in stale and not (self.metrics.is_complete(row) and _is_prepared_for(row, self.square))
        ]
        if stale or partial:
            self.file.drop([*stale, *partial])
        return {(row.picture, row.quality): row for row in rows if row in self.file.rows}

    def _pending_metrics(
        self,
        candidate: Candidate | PerImageCandidate,
        quality: float,
        known: Mapping[tuple[str, float], ImageResult],
    ) -> list[DatasetMetric]:
        """The metrics of the whole set that the old summary lacks for the same images. `begin` is called on
        them.
        """
        all_known = all((relative_name(path, self.root), quality) in known for path in self.images)
        key = candidate.name, quality, candidate.weights, len(self.images)
        old: Mapping[str, float | None] = next(
            (
                mean.values
                for mean in self.old_means
                if all_known and (mean.preset, mean.quality, mean.weights, mean.pictures) == key
            ),
            {},
        )
        pending = []
        for metric in self.metrics.dataset_metrics:
            values = {column: old.get(column) for column in metric.columns}
            if None not in values.values():
                self.dataset_values.setdefault((candidate.name, quality), {}).update(values)
                continue
            metric.begin()
            pending.append(metric)
        return pending

    def _measure_image(
        self,
        candidate: Candidate | PerImageCandidate,
        path: Path,
        quality: float,
        known: Mapping[tuple[str, float], ImageResult],
        pending: Sequence[DatasetMetric],
        file: Path,
    ) -> None:
        name = relative_name(path, self.root)
        old = known.get((name, quality))
        if old is not None:
            self.rows.append(old)
            if not pending:
                return
        picture = self._attempt(name, open_image, path, self.square)
        with_text = self._attempt(name, candidate_for, candidate, name)
        if picture is None or with_text is None:
            return
        label = f"{candidate.name}, {name}, quality {quality:g}"
        measured = self._attempt(
            label, measure_image, with_text, picture, name, quality, file, self.metrics, old
        )
        if measured is None:
            return
        row, image = measured
        if old is None:
            if self.square is not None:
                row = replace(row, note="; ".join(filter(None, [row.note, _square_note(self.square)])))
            self.file.add(row)
            self.rows.append(row)
        for metric in pending:
            self._attempt(label, metric.add, image)

    def _means(self) -> list[MeanResult]:
        """The means of the rows so far, with the metrics of the whole set."""
        return [
            replace(mean, values={**mean.values, **self.dataset_values.get((mean.preset, mean.quality), {})})
            for mean in mean_results(self.rows)
        ]

    def _write_means(self) -> None:
        """Write the summary, keeping old rows that have not been re-measured: only it stores metrics of whole
        sets.
        """
        means = self._means()
        done = {(mean.preset, mean.quality) for mean in means}
        old = [mean for mean in self.old_means if (mean.preset, mean.quality) not in done]
        write_means(self.summary, [*means, *old])

    def _attempt(self, name: str, work: Callable[..., Result], *arguments: object) -> Result | None:
        """The result of `work`; if it raises an expected error, None, and the error is reported."""
        try:
            return work(*arguments)
        except (TrifocalError, OSError) as error:
            sentence = _sentence(error, name)
            if sentence not in self.failures:
                self.failures.append(sentence)
                self.notify_once(sentence)
            return None


def measure_image(
    candidate: Candidate,
    picture: Picture,
    name: str,
    quality: float,
    file: Path,
    metrics: MetricSet,
    old: ImageResult | None = None,
) -> tuple[ImageResult, DecodedImage]:
    """Code one image to a file and back: its row, and the decoded image. If there is an old row, it is
    returned.
    """
    prepared = metrics.prepare(picture)
    start = time.perf_counter()
    data = candidate.encode(prepared, quality)
    encoded = time.perf_counter()
    file.write_bytes(data)
    size = file.stat().st_size
    read = file.read_bytes()
    decode_start = time.perf_counter()
    decoded = candidate.decode(read)
    done = time.perf_counter()
    image = decoded_image(candidate, read, decoded, prepared, name)
    if old is not None:
        return old, image
    values, notes = metrics.measure(image.decoded, prepared.rgb, name, size)
    pixels = picture.width * picture.height
    if metrics.counts_text:
        of_text = text_bytes(candidate, read)
        values |= {TEXT_BYTES: of_text, TEXTLESS_BPP: 8 * (size - of_text) / pixels}
    row = ImageResult(
        preset=candidate.name,
        picture=name,
        width=picture.width,
        height=picture.height,
        quality=quality,
        bytes=size,
        bpp=8 * size / pixels,
        encode_s=encoded - start,
        decode_s=done - decode_start,
        weights=candidate.weights,
        note="; ".join(notes + [ALPHA_NOTE] * (picture.alpha is not None)),
        values=values,
    )
    return row, image


def _square_note(square: int) -> str:
    return f"{SQUARE_NOTE}{square}"


def _is_prepared_for(row: ImageResult, square: int | None) -> bool:
    """Whether the image of a row was cropped to this square, or was whole if there is none."""
    crops = [part for part in row.note.split("; ") if part.startswith(SQUARE_NOTE)]
    return crops == ([] if square is None else [_square_note(square)])


def _sentence(error: Exception, name: str) -> str:
    """The error as a sentence that names what failed."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or name}: {error.strerror.lower().rstrip('.')}."
    text = str(error)
    return text if Path(name).name in text else f"{name}: {text}"
