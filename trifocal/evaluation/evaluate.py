"""Every number from real files: a picture is coded to a file, the file is read back, decoded and compared."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from trifocal.errors import OptionError, PictureError, TrifocalError
from trifocal.evaluation.codecs.candidates import (
    Candidate,
    TextCandidate,
    candidate_of,
    decoded_image_of,
    for_picture,
    text_bytes,
    variants,
)
from trifocal.evaluation.codecs.custom_weights import BUNDLED, Models, labelled
from trifocal.evaluation.codecs.pillow_codecs import LOSSLESS
from trifocal.evaluation.metrics.metric_set import DecodedImage, MetricSet, Whole
from trifocal.evaluation.report.results_table import (
    Mean,
    Row,
    Table,
    means,
    read_means,
    summary_of,
    write_means,
)
from trifocal.evaluation.tasks.annotations import name_of
from trifocal.evaluation.tasks.task import Task
from trifocal.evaluation.text_ablation import (
    TEXT_BYTES,
    TEXTLESS_BPP,
    TextEffect,
    TextKinds,
    effects_of,
    write_effects,
)
from trifocal.pictures import Picture, list_pictures
from trifocal.presets import Preset

__all__ = ["DEFAULT_METRICS", "QUALITIES", "Results", "evaluate"]

QUALITIES = (10.0, 30.0, 50.0, 70.0, 90.0)
DEFAULT_METRICS = ("psnr", "ms-ssim")
Result = TypeVar("Result")
CLEAR = "alpha is coded, not compared"


@dataclass(frozen=True)
class Results:
    """What was asked for, old and new: a row per picture and quality, and their means with what looks at whole sets.

    `effects` say what words change, where several kinds of them were measured.
    """

    rows: list[Row]
    means: list[Mean]
    effects: list[TextEffect] = field(default_factory=list)


def evaluate(
    presets: Sequence[str | Candidate | Preset],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    qualities: Sequence[float] | Mapping[str, Sequence[float]] = QUALITIES,
    resume: bool = False,
    metrics: Sequence[str] = DEFAULT_METRICS,
    task: Task | None = None,
    text: Sequence[str] = (),
    progress: Callable[[float], None] | None = None,
    note: Callable[[str], None] | None = None,
    layers: str | None = None,
    preferences: Sequence[float] = (),
    device: str = "cpu",
) -> Results:
    """Measures each preset (or rival: avif, webp, jpeg ...) on each picture of the folder `data` at each quality.

    "LABEL=PRESET:WEIGHTS" measures a preset with the weights of a .safetensors file, and rows have the label for its name.
    Presets run on `device`, torch's name of it.

    `qualities` are the same for all, or are said for each by its name, as rows have it.

    Rows are appended to the CSV file `out` as they come, and the means go into the file beside it whose name ends in
    _summary.csv. With `resume`, rows that are there are kept, unless the preset's weights have changed since.
    `metrics` are names of METRICS and SETS; what cannot be measured on this machine is left out and said. A `task` (see
    `task_of`) is measured too, and also on the pictures themselves, as PNG files at quality 100.

    `text` are kinds of words (see `TextKinds`): a preset that takes words is measured with each of them, as preset:kind; a
    decoder's words are sent and counted. Of several kinds and qualities the `TextEffect`s go into a file that ends in _words.csv.

    With `layers` "base", presets with layers are measured by their base layer alone, as preset:base, at base qualities; more
    such names are in `layering`. With `preferences`, those whose decoder knows one are measured with each, as preset:0.5.

    `progress` is called with the fraction done, 0..1, `note` with a sentence for each thing that failed or was left out. What
    fails does not stop the rest; PictureError is raised in the end, with those sentences where there is no `note`. Raises
    OptionError, and for labels PresetError and WeightsError, before anything is done.
    """
    named, models = labelled(presets, device)
    chosen = variants(named, text, layers, preferences, models)
    subjects = list(dict.fromkeys([*chosen, *([LOSSLESS] if task is not None else [])]))
    names = list_pictures([data], recursive=True)
    points = points_of(subjects, qualities)
    check_request(presets, names, data, points)
    gauge = MetricSet(metrics, task, data, note or (lambda sentence: None), counts_text=bool(text))
    run = Run(Path(data), names, points, gauge, Path(out), resume, models)
    if len(set(text)) > 1 and max(map(len, points.values())) == 1:
        run.remark(
            "What words change is a difference of curves: measure at two qualities or more to have it."
        )
    for number, subject in enumerate(subjects):
        for fraction in run.subject(subject):
            if progress is not None:
                progress((number + fraction) / len(subjects))
    results = run.results()
    if run.failures:
        said = run.failures if note is None else [f"{len(run.failures)} failed."]
        raise PictureError(f"{' '.join(said)} All other rows are in {out}.")
    return results


def points_of(
    subjects: Sequence[str | Candidate], qualities: Sequence[float] | Mapping[str, Sequence[float]]
) -> dict[str, list[float]]:
    """The qualities of each subject by its name, rising. Raises OptionError where none are said of one."""
    points = {}
    for name in (subject if isinstance(subject, str) else subject.name for subject in subjects):
        said = qualities.get(name, ()) if isinstance(qualities, Mapping) else qualities
        points[name] = [100.0] if name == LOSSLESS else sorted(set(map(float, said)))
    return points


def check_request(
    presets: Sequence[object],
    names: Sequence[Path],
    data: object,
    points: Mapping[str, Sequence[float]],
) -> None:
    bare = [name for name, qualities in points.items() if not qualities]
    if not presets or bare:
        whom = f" for {bare[0]}" if bare else ""
        raise OptionError(f"Name at least one preset, and at least one quality to measure{whom}.")
    if not names:
        raise OptionError(f"There is no picture in the folder {data}.")
    wrong = [quality for qualities in points.values() for quality in qualities if not 0 <= quality <= 100]
    if wrong:
        raise OptionError(f"A quality is 0 to 100, not {wrong[0]:g}.")


class Run:
    """One call of `evaluate`: what it was asked, and what became of it."""

    def __init__(
        self,
        root: Path,
        names: Sequence[Path],
        points: Mapping[str, Sequence[float]],
        gauge: MetricSet,
        out: Path,
        resume: bool,
        models: Models = BUNDLED,
    ) -> None:
        self.root, self.names, self.points, self.gauge = root, names, points, gauge
        self.models = models
        self.wording = (
            TextKinds(gauge.captions, [name_of(path, root) for path in names]) if gauge.counts_text else None
        )
        self.table = Table(out, resume, gauge.columns)
        self.summary = summary_of(out)
        self.words = out.with_name(f"{out.stem}_words.csv")
        self.old_means = read_means(self.summary) if resume and self.summary.exists() else []
        self.rows: list[Row] = []
        self.of_all: dict[tuple[str, float], dict[str, float | None]] = {}
        self.failures: list[str] = []
        self.remarks: list[str] = []

    def remark(self, sentence: str) -> None:
        """Says it once."""
        if sentence not in self.remarks:
            self.remarks.append(sentence)
            self.gauge.note(sentence)

    def fail(self, sentence: str) -> None:
        if sentence not in self.failures:
            self.failures.append(sentence)
            self.remark(sentence)

    def subject(self, named: str | Candidate) -> Iterator[float]:
        """Measures one subject, and gives the fraction done after each picture."""
        subject = (
            self.attempt(named, candidate_of, named, self.wording, self.models)
            if isinstance(named, str)
            else named
        )
        if subject is None:
            yield 1.0
            return
        known = self.known(subject)
        qualities = self.points[subject.name]
        total = len(qualities) * len(self.names)
        with tempfile.TemporaryDirectory(prefix="trifocal-") as folder:
            for place, quality in enumerate(qualities):
                wholes = self.wholes_to_measure(subject, quality, known)
                for number, path in enumerate(self.names, start=place * len(self.names) + 1):
                    self.picture(subject, path, quality, known, wholes, Path(folder) / "file")
                    yield number / total
                for whole in wholes:
                    values = self.attempt(f"{subject.name}, quality {quality:g}", whole.result)
                    self.of_all.setdefault((subject.name, quality), {}).update(values or {})
                    for sentence in whole.notes():
                        self.remark(sentence)
                if wholes:
                    self.keep_means()

    def known(self, subject: Candidate | TextCandidate) -> dict[tuple[str, float], Row]:
        """Rows of this subject that are there already and that its present weights would give again."""
        mine = [row for row in self.table.rows if row.preset == subject.name]
        stale = [row for row in mine if row.weights != subject.weights]
        if stale:
            self.gauge.note(
                f"{subject.name} has other weights than {len(stale)} rows were measured with; they go."
            )
        partial = [row for row in mine if row not in stale and not self.gauge.is_whole(row)]
        if stale or partial:
            self.table.drop([*stale, *partial])
        return {(row.picture, row.quality): row for row in mine if row in self.table.rows}

    def wholes_to_measure(
        self, subject: Candidate | TextCandidate, quality: float, known: Mapping[tuple[str, float], Row]
    ) -> list[Whole]:
        """Those that the old summary does not have of the same pictures; begun anew."""
        all_known = all((name_of(path, self.root), quality) in known for path in self.names)
        old: Mapping[str, float | None] = next(
            (
                mean.values
                for mean in self.old_means
                if all_known
                and (mean.preset, mean.quality, mean.weights) == (subject.name, quality, subject.weights)
                and mean.pictures == len(self.names)
            ),
            {},
        )
        wanted = []
        for whole in self.gauge.wholes:
            values = {column: old.get(column) for column in whole.columns}
            if None not in values.values():
                self.of_all.setdefault((subject.name, quality), {}).update(values)
                continue
            whole.begin()
            wanted.append(whole)
        return wanted

    def picture(
        self,
        subject: Candidate | TextCandidate,
        path: Path,
        quality: float,
        known: Mapping[tuple[str, float], Row],
        wholes: Sequence[Whole],
        file: Path,
    ) -> None:
        name = name_of(path, self.root)
        old = known.get((name, quality))
        if old is not None:
            self.rows.append(old)
        if old is not None and not wholes:
            return
        picture, told = (
            self.attempt(name, Picture.open, path, "colour"),
            self.attempt(name, for_picture, subject, name),
        )
        if picture is None or told is None:
            return
        what = f"{subject.name}, {name}, quality {quality:g}"
        measured = self.attempt(what, measure, told, picture, name, quality, file, self.gauge, old)
        if measured is None:
            return
        row, outcome = measured
        if old is None:
            self.table.add(row)
            self.rows.append(row)
        for whole in wholes:
            self.attempt(what, whole.add, outcome)

    def summarised(self) -> list[Mean]:
        """Of the rows so far, with what was measured of all pictures together."""
        return [
            replace(mean, values={**mean.values, **self.of_all.get((mean.preset, mean.quality), {})})
            for mean in means(self.rows)
        ]

    def keep_means(self) -> None:
        """Writes them, and the old ones of what is yet to come: what was measured of all pictures stands nowhere else."""
        table = self.summarised()
        done = {(mean.preset, mean.quality) for mean in table}
        write_means(
            self.summary,
            [*table, *(mean for mean in self.old_means if (mean.preset, mean.quality) not in done)],
        )

    def results(self) -> Results:
        """The rows, their means and the effects of words, which are written too."""
        table = self.summarised()
        if table:
            write_means(self.summary, table)
        effects = effects_of(self.rows, list(self.gauge.metrics))
        if effects:
            write_effects(self.words, effects)
        return Results(self.rows, table, effects)

    def attempt(self, name: str, work: Callable[..., Result], *arguments: object) -> Result | None:
        """What is expected to go wrong in `work` becomes a sentence among the failures, and None."""
        try:
            return work(*arguments)
        except (TrifocalError, OSError) as error:
            self.fail(sentence_of(error, name))
            return None


def measure(
    subject: Candidate,
    picture: Picture,
    name: str,
    quality: float,
    file: Path,
    gauge: MetricSet,
    old: Row | None = None,
) -> tuple[Row, DecodedImage]:
    """One row, to a real file and back from it, and what became of the picture. An old row stays as it is."""
    coded = gauge.prepared(picture)
    begun = time.perf_counter()
    data = subject.encode(coded, quality)
    encoded = time.perf_counter()
    file.write_bytes(data)
    size = file.stat().st_size
    read = file.read_bytes()
    reading = time.perf_counter()
    decoded = subject.decode(read)
    done = time.perf_counter()
    outcome = decoded_image_of(subject, read, decoded, coded, name)
    if old is not None:
        return old, outcome
    values, notes = gauge.of(outcome.decoded, coded.rgb, name, size)
    pixels = picture.width * picture.height
    if gauge.counts_text:
        words = text_bytes(subject, read)
        values |= {TEXT_BYTES: words, TEXTLESS_BPP: 8 * (size - words) / pixels}
    row = Row(
        preset=subject.name,
        picture=name,
        width=picture.width,
        height=picture.height,
        quality=quality,
        bytes=size,
        bpp=8 * size / pixels,
        encode_s=encoded - begun,
        decode_s=done - reading,
        weights=subject.weights,
        note="; ".join(notes + [CLEAR] * (picture.alpha is not None)),
        values=values,
    )
    return row, outcome


def sentence_of(error: Exception, name: str) -> str:
    """A whole sentence that names what failed."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or name}: {error.strerror.lower().rstrip('.')}."
    text = str(error)
    return text if Path(name).name in text else f"{name}: {text}"
