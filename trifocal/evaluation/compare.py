"""Compare presets and other codecs on a folder of images, and write a report."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from trifocal.errors import PictureError
from trifocal.evaluation.candidates.factory import load_custom_weights
from trifocal.evaluation.candidates.pillow_codecs import LOSSLESS
from trifocal.evaluation.candidates.variant import Variant, expand_variants
from trifocal.evaluation.evaluate import evaluate
from trifocal.evaluation.images import captions_for, find_images, relative_name
from trifocal.evaluation.metrics.distribution import DISTRIBUTION_METRICS
from trifocal.evaluation.metrics.metric_set import is_metric
from trifocal.evaluation.metrics.per_image import METRICS, Metric, find_metric
from trifocal.evaluation.options import CompareOptions
from trifocal.evaluation.report.compressai_json import write_compressai
from trifocal.evaluation.report.contents import ReportData
from trifocal.evaluation.report.crops import CropLocation, make_crops, parse_crops
from trifocal.evaluation.report.curves import ANCHORS, Curve
from trifocal.evaluation.report.measurements import (
    compare_curves,
    layer_bytes,
    measure_speeds,
    scaled_curves,
    system_description,
)
from trifocal.evaluation.report.page import write_report
from trifocal.evaluation.report.plots import MetricInfo
from trifocal.evaluation.report.published import published_curves
from trifocal.evaluation.report.results_table import (
    ImageResult,
    MeanResult,
)
from trifocal.evaluation.tasks.task import TITLES
from trifocal.evaluation.text_ablation import TextKinds, text_effects

__all__ = ["compare"]

MEASURING_SHARE = 0.7  # of the progress, when measuring is done and crops are made
KODAK = frozenset(f"kodim{number:02}" for number in range(1, 25))


def compare(
    candidates: Sequence[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: CompareOptions | None = None,
    *,
    progress: Callable[[float], None] | None = None,
    notify: Callable[[str], None] | None = None,
) -> Path:
    """Measure candidates with `evaluate`, and write a report; returns the path of its index.html.

    The folder gets index.html, plots, crops, results.csv, bd.csv, report.json, and each candidate's curve
    in CompressAI's format, such as taco-compact-true.json for taco-compact:true. On the 24 Kodak images,
    published curves are plotted too. A candidate that cannot be measured is named in the report.

    Args:
        candidates: as for `evaluate`. The first one is the reference: speeds are relative to it, and all
            crops use files of at most its size.
        data: the folder of the images.
        out: the folder of the report.
        options: what to measure and show; None for the defaults.
        progress: called with the fraction done, 0..1.
        notify: called with a sentence for each failure, and for each metric or image that was left out.

    Raises:
        OptionError, PresetError, WeightsError: for options and custom weights, before anything is measured.
        PictureError: if nothing could be measured.
        MissingExtra: without jinja2, matplotlib or scipy.
    """
    options = options or CompareOptions()
    published_curves("psnr", options.published)  # raises before the long work
    locations = parse_crops(options.crops, Path(data), options.square)
    folder = Path(out)
    notes = (
        ["Curves and BD-rates do not count the text that files store."] if options.without_text_bits else []
    )

    def keep(sentence: str) -> None:
        notes.append(sentence)
        if notify is not None:
            notify(sentence)

    advance = progress or (lambda fraction: None)
    results = evaluate(
        candidates,
        data,
        folder / "results.csv",
        options,
        raise_failures=False,
        progress=lambda fraction: advance(MEASURING_SHARE * fraction),
        notify=keep,
    )
    if not results.rows:
        raise PictureError("Nothing was measured." if notify else f"{' '.join(notes)} Nothing was measured.")
    means = results.means
    parsed = load_custom_weights(candidates, options.device)
    variants = [
        variant
        for variant in expand_variants(parsed, options.text, options.layers, options.preferences)
        if isinstance(variant, Variant)
    ]
    if options.task is not None:
        variants.append(Variant(LOSSLESS))
    report = make_report(
        variants,
        Path(data),
        results.rows,
        means,
        notes,
        options,
        locations,
        lambda fraction: advance(MEASURING_SHARE + (1 - MEASURING_SHARE) * fraction),
    )
    titles = {variant.name: variant.title for variant in variants}
    for name in {mean.preset for mean in means} - {LOSSLESS}:
        curve = [mean for mean in means if mean.preset == name]
        description = f"{report.pictures} pictures of {report.folder}, {report.date}: {report.command}"
        write_compressai(folder / f"{name.replace(':', '-')}.json", titles[name], description, curve)
    return write_report(report, folder)


def make_report(
    variants: Sequence[Variant],
    data: Path,
    rows: Sequence[ImageResult],
    means: Sequence[MeanResult],
    notes: Sequence[str],
    options: CompareOptions,
    locations: Sequence[CropLocation] = (),
    progress: Callable[[float], None] = lambda fraction: None,
) -> ReportData:
    """The contents of a report.

    Args:
        variants: in the order of the report.
        data: the folder of the images.
        rows, means: the results.
        notes: sentences for the report.
        options: for further published curves.
        locations: of crops.
        progress: called with the fraction done of the crops.
    """
    by_name = {variant.name: variant for variant in variants}
    measured = {row.preset for row in rows}
    order = [variant for name, variant in by_name.items() if name in measured]
    titles = {variant.name: variant.title for variant in order}
    images = sorted({row.picture for row in rows})
    metrics = measured_metrics(means)
    scaled = {
        metric: scaled_curves(metric, list(titles), means, options.without_text_bits) for metric in metrics
    }
    is_kodak = {Path(name).stem for name in images} == KODAK
    files = [*([ANCHORS] if is_kodak else []), *options.published]
    published = {
        metric: published_curves(metric.name, files) if metric.name in METRICS else [] for metric in metrics
    }
    names = [relative_name(path, data) for path in find_images(data)]
    texts = TextKinds(captions_for(data, options.captions), names, options.best_by)
    first = order[0].title
    own = [variant for variant in order if not variant.is_pillow_codec]

    def natural(metric: Metric, curve: Curve) -> Curve:
        values = tuple(metric.natural(value) for value in curve.values)
        return replace(curve, name=titles.get(curve.name, curve.name), values=values)

    return ReportData(
        title=f"{first} and {len(order) - 1} others" if len(order) > 1 else first,
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        machine=system_description(),
        date=time.strftime("%Y-%m-%d"),
        pictures=len(images),
        folder=data.name,
        metrics=tuple(MetricInfo(m.name, m.title, m.unit, m.better) for m in metrics),
        curves={m.name: [natural(m, curve) for curve in scaled[m]] for m in metrics},
        published={m.name: [natural(m, curve) for curve in published[m]] for m in metrics},
        differences=[
            replace(one, codec=titles[one.codec], anchor=titles.get(one.anchor, one.anchor))
            for metric in metrics
            for one in compare_curves(metric, scaled[metric], published[metric])
        ],
        speeds=measure_speeds(order, data, rows, texts, options.square),
        layers=[
            entry for variant in own for entry in layer_bytes(variant, data, texts, square=options.square)
        ],
        crops=make_crops(
            [variant for variant in order if variant.name != LOSSLESS],
            data,
            rows,
            texts,
            locations,
            progress,
            options.square,
        ),
        notes=list(notes),
        own=tuple(variant.title for variant in own),
        text_effects=tuple(
            replace(effect, preset=_title_without_text(order, effect.preset))
            for effect in text_effects(rows, metrics)
        ),
    )


def _title_without_text(variants: Sequence[Variant], name: str) -> str:
    """The title of the variant with this name, ignoring kinds of text."""
    plain = (replace(variant, text=None) for variant in variants)
    return next(variant.title for variant in plain if variant.name == name)


def measured_metrics(means: Sequence[MeanResult]) -> list[Metric]:
    """The metrics of images, of whole sets, and of tasks that were measured."""
    metrics: list[Metric] = []
    for column in dict.fromkeys(column for mean in means for column in mean.values if is_metric(column)):
        name = column.replace("_", "-")
        task, *network = column.split(":")
        if name in DISTRIBUTION_METRICS:
            whole = DISTRIBUTION_METRICS[name]
            metrics.append(Metric(whole.name, whole.title, "", whole.better, METRICS["psnr"].load))
        elif task in TITLES:
            originals = next((mean.values.get(column) for mean in means if mean.preset == LOSSLESS), None)
            suffix = "" if originals is None else f"; {originals:.3f} on the originals"
            title = f"{TITLES[task]} ({', '.join(network)}{suffix})"
            metrics.append(Metric(column, title, "", "higher", METRICS["psnr"].load))
        else:
            metrics.append(find_metric(name))
    return metrics
