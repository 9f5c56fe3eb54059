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

import numpy as np

from trifocal.container import Bitstream, describe
from trifocal.container.text import tidy
from trifocal.data.coco import captions_of
from trifocal.errors import OptionError, PictureError, RateError, TrifocalError
from trifocal.evaluation.baselines import LOSSLESS
from trifocal.evaluation.curves import ANCHORS, Curve, bd_metric, bd_rate
from trifocal.evaluation.evaluate import DEFAULT_METRICS, QUALITIES, evaluate
from trifocal.evaluation.exchange import published_curves, write_results
from trifocal.evaluation.gauge import is_metric
from trifocal.evaluation.matching import name_of
from trifocal.evaluation.memory import peak_of, processor
from trifocal.evaluation.metrics import METRICS, Metric, Pixels, metric_of, psnr
from trifocal.evaluation.models import BUNDLED, Models, labelled
from trifocal.evaluation.report import (
    Crop,
    Difference,
    LayerBytes,
    MetricInfo,
    Panel,
    Speed,
    Study,
    write_report,
)
from trifocal.evaluation.rows import Mean, Row, read_means, read_rows, summary_of
from trifocal.evaluation.sets import SETS
from trifocal.evaluation.subjects import (
    PresetSubject,
    Subject,
    for_picture,
    is_rival,
    outcome_of,
    subject_of,
    title_of,
    variants,
)
from trifocal.evaluation.tasks import TITLES, Task
from trifocal.evaluation.wording import KINDS, Wording, curves_of, effects_of
from trifocal.pictures import Picture, list_pictures

__all__ = ["compare"]

KODAK = frozenset(f"kodim{number:02}" for number in range(1, 25))
CROP = 192, 144  # pixels, width and height


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
) -> Path:
    """Evaluates presets and rivals, and writes the report: index.html, plots, crops, results.csv, bd.csv, report.json, and
    each codec's curve in CompressAI's form, CODEC.json (taco-compact-true.json for taco-compact:true).

    The first subject is the one that is looked at: speeds are ratios to its rivals', crops are taken where it does worst, about
    as usual and best against the first of the others. On the 24 Kodak pictures the published anchors are drawn too,
    and the curves of the files `published` (see `published_curves`) always. Other arguments and errors are those of `evaluate`; a subject that cannot be measured is named in the report.
    """
    for path in published:
        published_curves("psnr", [path])  # raises before the long work
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
            progress,
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
    study = study_of([*names, *sorted(asked)], Path(data), rows, means, said, published, models)
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
    wording = Wording(
        captions_of(data), [name_of(path, data) for path in list_pictures([data], recursive=True)]
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
            if not is_rival(name)
            for entry in layers_of(name, data, titles[name], wording, models)
        ],
        crops=crops([name for name in order if name != LOSSLESS], data, rows, titles, wording, models),
        notes=list(notes),
        own=tuple(titles[name] for name in order if not is_rival(name)),
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
    wording: Wording,
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


def peak(name: str, data: Path, row: Row, wording: Wording, models: Models) -> int | None:
    """The peak memory on the picture of a row, in bytes."""
    plain, _, kind = name.partition(":")
    if kind not in KINDS:
        return peak_of(name, path_of(data, row.picture), 50, None, models)
    try:
        words = wording.text(kind, row.picture)
        text = None if words is None else tidy(words)
    except OptionError:
        return None
    return peak_of(plain, path_of(data, row.picture), 50, text, models)


def path_of(data: Path, picture: str) -> Path:
    return data / picture if data.is_dir() else data


def layers_of(
    name: str,
    data: Path,
    title: str,
    wording: Wording,
    models: Models,
    quality: float = 50.0,
    most: int = 24,
) -> list[LayerBytes]:
    """Mean bytes of the header and of each layer of a preset's files, over the first pictures."""
    subject = subject_of(name, wording, models)
    found: dict[str, list[int]] = {}
    for path in list_pictures([data], recursive=True)[:most]:
        try:
            encoded = for_picture(subject, name_of(path, data)).encode(Picture.open(path), quality)
        except (TrifocalError, OSError):
            continue  # `evaluate` has named it
        entries: Any = describe(Bitstream.from_bytes(encoded))["layers"]
        sizes = {str(layer["name"]): int(layer["bytes"]) for layer in entries}
        for layer, size in {**sizes, "header": len(encoded) - sum(sizes.values())}.items():
            found.setdefault(layer, []).append(size)
    if not found:
        return []
    return [LayerBytes(title, quality, {layer: statistics.fmean(sizes) for layer, sizes in found.items()})]


def crops(
    order: Sequence[str],
    data: Path,
    rows: Sequence[Row],
    titles: Mapping[str, str],
    wording: Wording,
    models: Models,
) -> list[Crop]:
    """The pictures where the first subject does worst, about as usual and best against the second, at equal bytes."""
    if len(order) < 2:
        return []
    metric = metric_of("ssimulacra2" if any("ssimulacra2" in row.values for row in rows) else "psnr")
    ours, theirs = (curves_of(rows, metric, name) for name in order[:2])
    found = [(bd_metric(theirs[name], ours[name]).value, name) for name in ours if name in theirs]
    gains = sorted((gain, name) for gain, name in found if gain is not None)
    chosen = {0: "worst", len(gains) - 1: "best", len(gains) // 2: "median"} if gains else {}
    if len(gains) < 3:
        chosen = {place: f"{place + 1} of {len(gains)}" for place in range(len(gains))}
    subjects = [subject_of(name, wording, models) for name in order]
    shown = []
    for place, why in sorted(chosen.items()):
        name = gains[place][1]
        coded = {row.preset for row in rows if row.picture == name}
        told = [for_picture(subject, name) for subject in subjects if subject.name in coded]
        shown.append(crop_of(told, data, name, why, titles))
    return shown


def crop_of(subjects: Sequence[Subject], data: Path, name: str, why: str, titles: Mapping[str, str]) -> Crop:
    """All subjects at the bytes of the first one's quality 30, and the place where it errs most."""
    picture = Picture.open(path_of(data, name))
    first = subjects[0].encode(picture, 30)
    decoded: list[tuple[str, int, Pixels]] = []
    for subject in subjects:
        file = first if subject is subjects[0] else within(subject, picture, len(first))
        if file is not None:
            outcome = outcome_of(subject, file, subject.decode(file), picture, name)
            decoded.append((titles[subject.name], len(file), outcome.decoded))
    box = place_of_error(decoded[0][2], picture.rgb)
    left, top, right, bottom = box
    pixels = picture.width * picture.height
    panels = [Panel("the original", 0, 0.0, {}, picture.rgb[top:bottom, left:right])]
    panels += [
        Panel(title, size, 8 * size / pixels, {"psnr": psnr(rgb, picture.rgb)}, rgb[top:bottom, left:right])
        for title, size, rgb in decoded
    ]
    return Crop(name, why, box, tuple(panels))


def within(subject: Subject, picture: Picture, size: int) -> bytes | None:
    """The subject's best file of at most so many bytes; None where its smallest is larger."""
    if isinstance(subject, PresetSubject):
        try:
            return subject.stream(picture, size=size).to_bytes()
        except RateError:
            return None
    best, low, high = None, 0, 100
    while low <= high:
        middle = (low + high) // 2
        file = subject.encode(picture, middle)
        if len(file) <= size:
            best, low = file, middle + 1
        else:
            high = middle - 1
    return best


def place_of_error(decoded: Pixels, original: Pixels) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the window of CROP whose squared error is largest, on a grid of half windows."""
    height, width = original.shape[:2]
    wide, high = min(CROP[0], width), min(CROP[1], height)
    error = np.square(decoded.astype(np.int32) - original).sum(2)
    corners = [
        (int(error[top : top + high, left : left + wide].sum()), left, top)
        for top in range(0, height - high + 1, max(1, high // 2))
        for left in range(0, width - wide + 1, max(1, wide // 2))
    ]
    _, left, top = max(corners)
    return left, top, left + wide, top + high


def machine() -> str:
    return f"{os.cpu_count()} cores of {processor()}, {platform.system()}, Python {platform.python_version()}"
