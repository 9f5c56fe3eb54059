"""Standard errors of average precision, by a bootstrap over images."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trifocal.errors import OptionError
from trifocal.evaluation.candidates.candidate import candidate_for, decoded_image
from trifocal.evaluation.candidates.factory import create_candidate
from trifocal.evaluation.candidates.pillow_codecs import LOSSLESS
from trifocal.evaluation.candidates.variant import Variant, parse_variant
from trifocal.evaluation.images import find_images, relative_name
from trifocal.evaluation.tasks.detection import DetectionTask
from trifocal.evaluation.tasks.task import create_task
from trifocal.pictures import Picture

__all__ = ["APWithError", "ap_with_errors", "bootstrap_ap", "run_detection"]

SEED = 0


@dataclass(frozen=True)
class APWithError:
    """AP of a candidate at a quality, with standard errors.

    Attributes:
        name: of the candidate, as in tables.
        quality: 0..100.
        ap: 0..1.
        ap_error: its standard error.
        loss: AP on the originals minus `ap`.
        loss_error: its standard error, paired by image.
    """

    name: str
    quality: float
    ap: float
    ap_error: float
    loss: float
    loss_error: float


def ap_with_errors(
    points: Mapping[str, Sequence[float]],
    data: str | os.PathLike[str],
    detector: str,
    draws: int = 200,
    progress: Callable[[float, str], None] = lambda fraction, text: None,
) -> list[APWithError]:
    """AP of each candidate at each of its qualities; the originals come first.

    Args:
        points: the qualities of each candidate, named as for `evaluate`.
        data: a folder of images with COCO's instances.json in it or above it.
        detector: as for `create_task`.
        draws: the number of bootstrap samples of the images, which are the same for all candidates.
        progress: called with the fraction done and what is being done.

    Raises:
        OptionError: for fewer than two draws.
        TrifocalError, OSError: as `create_task` and `create_candidate`.
    """
    if draws < 2:
        raise OptionError(f"A standard error needs at least two bootstrap samples, not {draws}.")
    named = [
        (name, quality) for name, qualities in {LOSSLESS: (100,), **points}.items() for quality in qualities
    ]
    runs = []
    for number, (name, quality) in enumerate(named):

        def report(part: float, start: int = number, text: str = f"{name}, quality {quality:g}") -> None:
            progress((start + part) / len(named) / 2, text)

        runs.append(run_detection(parse_variant(name), quality, Path(data), detector, report)[0])
    samples = bootstrap_ap(runs, draws, progress=lambda part: progress((1 + part) / 2, "bootstrap samples"))
    precisions = [run.result()["ap"] for run in runs]
    errors = samples.std(axis=0, ddof=1)
    loss_errors = (samples[:, :1] - samples).std(axis=0, ddof=1)
    return [
        APWithError(name, quality, ap, float(error), precisions[0] - ap, float(loss_error))
        for (name, quality), ap, error, loss_error in zip(named, precisions, errors, loss_errors)
    ]


def run_detection(
    variant: Variant,
    quality: float,
    data: Path,
    detector: str,
    progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[DetectionTask, float]:
    """Run a detector on all images of a folder after coding: its detections, and the mean bits per pixel."""
    task = create_task("detection", detector, None, data)
    assert isinstance(task, DetectionTask)
    candidate = create_candidate(variant)
    paths, rates = find_images(data), []
    for number, path in enumerate(paths):
        progress(number / len(paths))
        picture, name = Picture.open(path, "colour"), relative_name(path, data)
        coder = candidate_for(candidate, name)
        file = coder.encode(picture, quality)
        image = decoded_image(coder, file, coder.decode(file), picture, name)
        task.add(image.decoded, name, image.find)
        rates.append(8 * len(file) / (picture.width * picture.height))
    return task, float(np.mean(rates))


def bootstrap_ap(
    runs: Sequence[DetectionTask],
    draws: int,
    seed: int = SEED,
    progress: Callable[[float], None] = lambda fraction: None,
) -> NDArray[np.float64]:
    """AP of several runs on bootstrap samples of their images (Efron 1979): [draws, runs].

    All runs use the same samples, so that differences between columns are paired.

    Raises:
        OptionError: if no image is in all runs.
    """
    shared = sorted(set.intersection(*(set(run.detections) for run in runs)))
    if not shared:
        raise OptionError("No image was measured in all runs.")
    random = np.random.default_rng(seed)
    samples = np.empty((draws, len(runs)))
    for number, row in enumerate(samples):
        ids = [shared[place] for place in random.integers(len(shared), size=len(shared))]
        row[:] = [run.average_precision("bbox", ids)[0] for run in runs]
        progress((number + 1) / draws)
    return samples
