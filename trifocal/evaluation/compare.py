"""Presets and rivals on a folder of pictures, made into the report that a person reads."""

from __future__ import annotations

import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trifocal.container import Bitstream, describe
from trifocal.container.text import normalise_text
from trifocal.data.coco import read_captions
from trifocal.errors import OptionError, PictureError, TrifocalError
from trifocal.evaluation.codecs.candidates import (
    candidate_of,
    for_picture,
    is_pillow_codec,
    title_of,
    variants,
)
from trifocal.evaluation.codecs.custom_weights import BUNDLED, Models, labelled
from trifocal.evaluation.codecs.pillow_codecs import LOSSLESS
from trifocal.evaluation.evaluate import DEFAULT_METRICS, QUALITIES, evaluate
from trifocal.evaluation.memory import peak_of, processor
from trifocal.evaluation.metrics.distribution import SETS
from trifocal.evaluation.metrics.metric_set import is_metric
from trifocal.evaluation.metrics.per_image import METRICS, Metric, metric_of
from trifocal.evaluation.report.compressai_json import published_curves, write_results
from trifocal.evaluation.report.crops import Place, crops, path_of, places_of
from trifocal.evaluation.report.curves import ANCHORS, Curve, bd_metric, bd_rate
from trifocal.evaluation.report.page import (
    Difference,
    LayerBytes,
    MetricInfo,
    Speed,
    Study,
    write_report,
)
from trifocal.evaluation.report.results_table import Mean, Row, read_means, read_rows, summary_of
from trifocal.evaluation.tasks.annotations import name_of
from trifocal.evaluation.tasks.task import TITLES, Task
from trifocal.evaluation.text_ablation import KINDS, TextKinds, effects_of
from trifocal.pictures import Picture, list_pictures

__all__ = ["compare"]

MEASURED = 0.7  # of the progress, when all is measured and the crops begin
KODAK = frozenset(f"kodim{number:02}" for number in range(1, 25))


def compare(
    subjects: Sequence[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    qualities: Sequence[float] = QUALITIES,
    resume: bool = False,
    metrics: Sequence[str] = DEFAULT_METRICS,
    task: Task | None = None,
    text: Sequence[str] = (),
    published: Sequence[str | os.PathLike[str]] = (),
    progress: Callable[[float], None] | None = None,
    note: Callable[[str], None] | None = None,
    layers: str | None = None,
    preferences: Sequence[float] = (),
    device: str = "cpu",
    crop: Sequence[str] = (),
) -> Path:
    """Evaluates presets and rivals, and writes the report: index.html, plots, crops, results.csv, bd.csv, report.json, and
    each codec's curve in CompressAI's form, CODEC.json (taco-compact-true.json for taco-compact:true).

    The first subject is the one that is looked at: speeds are ratios to its rivals', crops are taken where it does worst, about
    as usual and best against the first of the others, or at the places `crop` (PICTURE:X,Y,WIDTH,HEIGHT). On the 24 Kodak pictures the published anchors are drawn too,
    and the curves of the files `published` (see `published_curves`) always. Other arguments and errors are those of `evaluate`; a subject that cannot be measured is named in the report.
    """
    for path in published:
        published_curves("psnr", [path])  # raises before the long work
    places = places_of(crop, Path(data))
    folder = Path(out)
    said: list[str] = []

    def keep(sentence: str) -> None:
        said.append(sentence)
        if note is not None:
            note(sentence)

    table = folder / "results.csv"
    try:
        evaluate(
            subjects,
            data,
            table,
            qualities,
            resume,
            metrics,
            task,
            text,
            None if progress is None else lambda fraction: progress(MEASURED * fraction),
            keep,
            layers,
            preferences,
            device,
        )
    except PictureError:
        if not table.exists():
            raise PictureError(" ".join(said)) from None
    labels, models = labelled(subjects, device)
    names = variants(labels, text, layers, preferences, models)
    asked = {*names, LOSSLESS} if task is not None else set(names)
    points = {*map(float, qualities), *([100.0] if LOSSLESS in asked else [])}
    rows = [row for row in read_rows(table) if row.preset in asked and row.quality in points]
    means = [mean for mean in read_means(summary_of(table)) if mean.preset in asked]
    study = study_of(
        [*names, *sorted(asked)],
        Path(data),
        rows,
        means,
        said,
        published,
        models,
        places,
        progress or (lambda fraction: None),
    )
    for name in {mean.preset for mean in means} - {LOSSLESS}:
        curve = [mean for mean in means if mean.preset == name]
        description = f"{study.pictures} pictures of {study.folder}, {study.date}: {study.command}"
        write_results(folder / f"{name.replace(':', '-')}.json", title_of(name, models), description, curve)
    return write_report(study, folder)


def study_of(
    subjects: Sequence[str],
    data: Path,
    rows: Sequence[Row],
    means: Sequence[Mean],
    notes: Sequence[str],
    extra: Sequence[str | os.PathLike[str]] = (),
    models: Models = BUNDLED,
    places: Sequence[Place] = (),
    progress: Callable[[float], None] = lambda fraction: None,
) -> Study:
    """The report's contents, from what was measured."""
    order = [name for name in dict.fromkeys(subjects) if any(row.preset == name for row in rows)]
    pictures = sorted({row.picture for row in rows})
    gauges = gauges_of(means)
    scaled = {metric: scaled_curves(metric, order, means) for metric in gauges}
    whole = {Path(name).stem for name in pictures} == KODAK
    published = {
        metric: published_curves(metric.name, [*([ANCHORS] if whole else []), *extra])
        if metric.name in METRICS
        else []
        for metric in gauges
    }
    titles = {name: title_of(name, models) for name in order}
    wording = TextKinds(
        read_captions(data), [name_of(path, data) for path in list_pictures([data], recursive=True)]
    )
    return Study(
        title=f"{titles[order[0]]} and {len(order) - 1} others" if len(order) > 1 else titles[order[0]],
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        pictures=len(pictures),
        folder=data.name,
        metrics=tuple(MetricInfo(m.name, m.title, m.unit, m.better) for m in gauges),
        curves={m.name: [natural(m, curve, titles) for curve in scaled[m]] for m in gauges},
        published={m.name: [natural(m, curve, {}) for curve in published[m]] for m in gauges},
        differences=[
            replace(
                difference,
                codec=titles[difference.codec],
                anchor=titles.get(difference.anchor, difference.anchor),
            )
            for metric in gauges
            for difference in differences(metric, scaled[metric], published[metric])
        ],
        speeds=speeds(order, data, rows, titles, wording, models),
        layers=[
            entry
            for name in order
            if not is_pillow_codec(name)
            for entry in layers_of(name, data, titles[name], wording, models)
        ],
        crops=crops(
            [name for name in order if name != LOSSLESS],
            data,
            rows,
            titles,
            wording,
            models,
            places,
            lambda fraction: progress(MEASURED + (1 - MEASURED) * fraction),
        ),
        notes=list(notes),
        own=tuple(titles[name] for name in order if not is_pillow_codec(name)),
        words=tuple(
            replace(effect, preset=title_of(effect.preset, models)) for effect in effects_of(rows, gauges)
        ),
    )


def gauges_of(means: Sequence[Mean]) -> list[Metric]:
    """The metrics of pictures, sets and tasks that were measured."""
    columns = dict.fromkeys(column for mean in means for column in mean.values)
    kept: list[Metric] = []
    for column in filter(is_metric, columns):
        name = column.replace("_", "-")
        task, *network = column.split(":")
        if name in SETS:
            whole = SETS[name]
            kept.append(Metric(whole.name, whole.title, "", whole.better, METRICS["psnr"].load))
        elif task in TITLES:
            ceiling = next((mean.values.get(column) for mean in means if mean.preset == LOSSLESS), None)
            said = "" if ceiling is None else f"; {ceiling:.3f} on the originals"
            title = f"{TITLES[task]} ({', '.join(network)}{said})"
            kept.append(Metric(column, title, "", "higher", METRICS["psnr"].load))
        else:
            kept.append(metric_of(name))
    return kept


def scaled_curves(metric: Metric, order: Sequence[str], means: Sequence[Mean]) -> list[Curve]:
    """A curve for each subject, on the scale of comparison."""
    return [
        Curve.of(name, points)
        for name in order
        if (points := list(points_of(metric, [mean for mean in means if mean.preset == name])))
    ]


def points_of(metric: Metric, lines: Iterable[Mean]) -> Iterator[tuple[float, float]]:
    for line in lines:
        value = line.values.get(metric.column)
        if value is not None:
            yield line.bpp, metric.scaled(value)


def natural(metric: Metric, curve: Curve, titles: Mapping[str, str]) -> Curve:
    values = tuple(metric.natural(value) for value in curve.values)
    return replace(curve, name=titles.get(curve.name, curve.name), values=values)


def differences(
    metric: Metric, measured: Sequence[Curve], published: Sequence[Curve]
) -> Iterator[Difference]:
    """Every measured codec against every other and every published one."""
    for curve in measured:
        for anchor in [*(other for other in measured if other is not curve), *published]:
            rate, gain = bd_rate(anchor, curve, metric.scaled_limits), bd_metric(anchor, curve)
            yield Difference(curve.name, anchor.name, metric.name, rate.value, gain.value, rate.overlap)


def speeds(
    order: Sequence[str],
    data: Path,
    rows: Sequence[Row],
    titles: Mapping[str, str],
    wording: TextKinds,
    models: Models,
) -> list[Speed]:
    """Medians over pictures and qualities, ratios to the first subject's, and the peak memory on the largest picture."""
    largest = max(rows, key=lambda row: row.width * row.height)
    medians = {
        name: tuple(
            statistics.median(getattr(row, way) for row in rows if row.preset == name)
            for way in ("encode_s", "decode_s")
        )
        for name in order
    }
    first = medians[order[0]]
    return [
        Speed(
            titles[name],
            encode,
            decode,
            encode / first[0],
            decode / first[1],
            peak(name, data, largest, wording, models),
        )
        for name, (encode, decode) in medians.items()
    ]


def peak(name: str, data: Path, row: Row, wording: TextKinds, models: Models) -> int | None:
    """The peak memory on the picture of a row, in bytes."""
    plain, _, kind = name.partition(":")
    if kind not in KINDS:
        return peak_of(name, path_of(data, row.picture), 50, None, models)
    try:
        words = wording.text(kind, row.picture)
        text = None if words is None else normalise_text(words)
    except OptionError:
        return None
    return peak_of(plain, path_of(data, row.picture), 50, text, models)


def layers_of(
    name: str,
    data: Path,
    title: str,
    wording: TextKinds,
    models: Models,
    quality: float = 50.0,
    most: int = 24,
) -> list[LayerBytes]:
    """Mean bytes of the header and of each layer of a preset's files, over the first pictures."""
    subject = candidate_of(name, wording, models)
    found: dict[str, list[int]] = {}
    for path in list_pictures([data], recursive=True)[:most]:
        try:
            encoded = for_picture(subject, name_of(path, data)).encode(Picture.open(path, "colour"), quality)
        except (TrifocalError, OSError):
            continue  # `evaluate` has named it
        entries: Any = describe(Bitstream.from_bytes(encoded))["layers"]
        sizes = {str(layer["name"]): int(layer["bytes"]) for layer in entries}
        for layer, size in {**sizes, "header": len(encoded) - sum(sizes.values())}.items():
            found.setdefault(layer, []).append(size)
    if not found:
        return []
    return [LayerBytes(title, quality, {layer: statistics.fmean(sizes) for layer, sizes in found.items()})]


def machine() -> str:
    return f"{os.cpu_count()} cores of {processor()}, {platform.system()}, Python {platform.python_version()}"
