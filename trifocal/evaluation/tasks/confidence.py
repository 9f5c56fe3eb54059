"""How sure an average precision is: what other pictures of the same kind might have given."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trifocal.errors import OptionError
from trifocal.evaluation.codecs.candidates import candidate_of, decoded_image_of, for_picture
from trifocal.evaluation.codecs.custom_weights import BUNDLED, Models
from trifocal.evaluation.codecs.pillow_codecs import LOSSLESS
from trifocal.evaluation.tasks.annotations import name_of
from trifocal.evaluation.tasks.detection import Detection
from trifocal.evaluation.tasks.task import task_of
from trifocal.pictures import Picture, list_pictures

__all__ = ["APWithError", "bootstrapped", "certainty", "detected"]

SEED = 0


@dataclass(frozen=True)
class APWithError:
    """AP of a codec at a quality, 0..1; by how much it is less than on the originals; and the standard errors of both."""

    name: str
    quality: float
    ap: float
    ap_error: float
    loss: float
    loss_error: float


def certainty(
    points: Mapping[str, Sequence[float]],
    data: str | os.PathLike[str],
    detector: str,
    draws: int = 200,
    progress: Callable[[float, str], None] = lambda fraction, said: None,
) -> list[APWithError]:
    """Of each subject (as `evaluate` names them) at each of its qualities, after the originals, which come first.

    Args:
        data: a folder of pictures with COCO's instances.json in it or above it.
        detector: as `task_of` names it.
        draws: bootstrap samples of the pictures, the same for all, so that losses are paired.
        progress: called with the fraction done and what is being done.

    Raises:
        OptionError: for fewer than two draws; what `task_of` and making a subject raise, PictureError, OSError.
    """
    if draws < 2:
        raise OptionError(f"A standard error takes two bootstrap samples or more, not {draws}.")
    named = [(name, quality) for name, all_of in {LOSSLESS: (100,), **points}.items() for quality in all_of]
    ways = []
    for number, (name, quality) in enumerate(named):

        def report(part: float, begun: int = number, said: str = f"{name}, quality {quality:g}") -> None:
            progress((begun + part) / len(named) / 2, said)

        ways.append(detected(name, quality, Path(data), detector, progress=report)[0])
    table = bootstrapped(ways, draws, progress=lambda part: progress((1 + part) / 2, "bootstrap samples"))
    precisions = [way.result()["ap"] for way in ways]
    errors = table.std(axis=0, ddof=1)
    loss_errors = (table[:, :1] - table).std(axis=0, ddof=1)
    return [
        APWithError(name, quality, ap, float(error), precisions[0] - ap, float(loss_error))
        for (name, quality), ap, error, loss_error in zip(named, precisions, errors, loss_errors)
    ]


def detected(
    name: str,
    quality: float,
    data: Path,
    detector: str,
    models: Models = BUNDLED,
    progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[Detection, float]:
    """What a detector finds in all pictures of a folder that a subject coded at a quality, and their mean bits per pixel."""
    way = task_of("detection", detector, None, data)
    assert isinstance(way, Detection)
    subject = candidate_of(name, models=models)
    paths, rates = list_pictures([data], recursive=True), []
    for number, path in enumerate(paths):
        progress(number / len(paths))
        picture, known = Picture.open(path, "colour"), name_of(path, data)
        told = for_picture(subject, known)
        file = told.encode(picture, quality)
        outcome = decoded_image_of(told, file, told.decode(file), picture, known)
        way.add(outcome.decoded, known, outcome.look)
        rates.append(8 * len(file) / (picture.width * picture.height))
    return way, float(np.mean(rates))


def bootstrapped(
    ways: Sequence[Detection],
    draws: int,
    seed: int = SEED,
    progress: Callable[[float], None] = lambda fraction: None,
) -> NDArray[np.float64]:
    """AP of each of several measurements on the same pictures, in bootstrap samples of them (Efron 1979): [draws, ways].

    A row's sample is the same for all, so that differences between columns are paired. Raises OptionError where no picture is in all
    of them.
    """
    shared = sorted(set.intersection(*(set(way.found) for way in ways)))
    if not shared:
        raise OptionError("No picture was added to all that are compared.")
    random = np.random.default_rng(seed)
    table = np.empty((draws, len(ways)))
    for number, row in enumerate(table):
        ids = [shared[place] for place in random.integers(len(shared), size=len(shared))]
        row[:] = [way.precision("bbox", ids)[0] for way in ways]
        progress((number + 1) / draws)
    return table
