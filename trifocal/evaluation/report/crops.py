"""Crops of a report: the same place out of the original and of each codec's file, at equal bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trifocal.errors import OptionError, RateError
from trifocal.evaluation.codecs.candidates import (
    Candidate,
    PresetCandidate,
    candidate_of,
    decoded_image_of,
    for_picture,
)
from trifocal.evaluation.codecs.custom_weights import Models
from trifocal.evaluation.metrics.per_image import Pixels, metric_of, psnr
from trifocal.evaluation.report.curves import bd_metric
from trifocal.evaluation.report.page import Crop, Panel
from trifocal.evaluation.report.results_table import Row
from trifocal.evaluation.tasks.annotations import name_of
from trifocal.evaluation.text_ablation import TextKinds, curves_of
from trifocal.pictures import Picture, list_pictures

__all__ = ["Place", "crops", "path_of", "place_of_error", "places_of", "within"]

SIZE = 192, 144  # pixels, width and height, where none is given
RATES = {"low rate": 15.0, "middle rate": 45.0, "high rate": 75.0}  # quality of the first subject
WRITTEN = re.compile(r"(?P<picture>.+):(?P<box>\d+,\d+,\d+,\d+)")

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class Place:
    """A place that is looked at, and why; without a box, where the first subject errs most."""

    picture: str
    why: str
    box: Box | None = None


def places_of(written: Sequence[str], data: Path) -> list[Place]:
    """Places written as PICTURE:X,Y,WIDTH,HEIGHT in pixels, or as PICTURE alone.

    Raises OptionError for a picture that is not in the folder, and for a box outside of its picture.
    """
    names = [name_of(path, data) for path in list_pictures([data], recursive=True)] if written else []
    return [place_of(one, names, data) for one in written]


def place_of(written: str, names: Sequence[str], data: Path) -> Place:
    parsed = None if written in names else WRITTEN.fullmatch(written)
    name = written if parsed is None else parsed["picture"]
    if name not in names:
        raise OptionError(
            f"{data} has no picture {name!r}; write a crop as PICTURE:X,Y,WIDTH,HEIGHT or PICTURE, with the "
            "picture's name in that folder."
        )
    if parsed is None:
        return Place(name, "chosen")
    x, y, width, height = map(int, parsed["box"].split(","))
    picture = Picture.open(path_of(data, name), "colour")
    if not width or not height or x + width > picture.width or y + height > picture.height:
        raise OptionError(
            f"The crop {parsed['box']} (x,y,width,height) does not lie within the {picture.width}×{picture.height} "
            f"pixels of {name}."
        )
    return Place(name, "chosen", (x, y, x + width, y + height))


def crops(
    order: Sequence[str],
    data: Path,
    rows: Sequence[Row],
    titles: Mapping[str, str],
    wording: TextKinds,
    models: Models,
    places: Sequence[Place] = (),
    progress: Callable[[float], None] = lambda fraction: None,
) -> list[Crop]:
    """Each place at low, middle and high rate, with the fraction done reported. Without `places`, the pictures where the first subject does worst, about as usual
    and best against the second."""
    if len(order) < 2:
        return []
    subjects = [candidate_of(name, wording, models) for name in order]
    shown: list[Crop] = []
    places = places or chosen_by_gain(order, rows)
    for number, place in enumerate(places):
        progress(number / len(places))
        coded = {row.preset for row in rows if row.picture == place.picture}
        told = [for_picture(subject, place.picture) for subject in subjects if subject.name in coded]
        if len(told) > 1:
            shown += crops_of(told, data, place, titles)
    return shown


def chosen_by_gain(order: Sequence[str], rows: Sequence[Row]) -> list[Place]:
    metric = metric_of("ssimulacra2" if any("ssimulacra2" in row.values for row in rows) else "psnr")
    ours, theirs = (curves_of(rows, metric, name) for name in order[:2])
    found = [(bd_metric(theirs[name], ours[name]).value, name) for name in ours if name in theirs]
    gains = sorted((gain, name) for gain, name in found if gain is not None)
    if len(gains) < 3:
        return [Place(name, f"{number} of {len(gains)}") for number, (_, name) in enumerate(gains, 1)]
    kept = {"worst": gains[0], "median": gains[len(gains) // 2], "best": gains[-1]}
    return [Place(name, why) for why, (_, name) in kept.items()]


def crops_of(
    subjects: Sequence[Candidate], data: Path, place: Place, titles: Mapping[str, str]
) -> Iterator[Crop]:
    """All subjects at the bytes of the first one's file, at each rate; the box is the same at all."""
    picture = Picture.open(path_of(data, place.picture), "colour")
    box = place.box
    for rate, quality in RATES.items():
        first = subjects[0].encode(picture, quality)
        files = [first, *(within(subject, picture, len(first)) for subject in subjects[1:])]
        decoded: list[tuple[str, int, Pixels]] = [
            (
                titles[subject.name],
                len(file),
                decoded_image_of(subject, file, subject.decode(file), picture, place.picture).decoded,
            )
            for subject, file in zip(subjects, files)
            if file is not None
        ]
        box = box or place_of_error(decoded[0][2], picture.rgb)
        yield Crop(place.picture, f"{place.why}, {rate}", box, panels_of(decoded, picture, box))


def panels_of(decoded: Sequence[tuple[str, int, Pixels]], picture: Picture, box: Box) -> tuple[Panel, ...]:
    left, top, right, bottom = box
    pixels = picture.width * picture.height
    original = Panel("the original", 0, 0.0, {}, picture.rgb[top:bottom, left:right])
    return original, *(
        Panel(title, size, 8 * size / pixels, {"psnr": psnr(rgb, picture.rgb)}, rgb[top:bottom, left:right])
        for title, size, rgb in decoded
    )


def path_of(data: Path, picture: str) -> Path:
    return data / picture if data.is_dir() else data


def within(subject: Candidate, picture: Picture, size: int) -> bytes | None:
    """The subject's best file of at most so many bytes; None where its smallest is larger."""
    if isinstance(subject, PresetCandidate):
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
    """Left, top, right, bottom of the window of SIZE whose squared error is largest, on a grid of half windows."""
    height, width = original.shape[:2]
    wide, high = min(SIZE[0], width), min(SIZE[1], height)
    error = np.square(decoded.astype(np.int32) - original).sum(2)
    corners = [
        (int(error[top : top + high, left : left + wide].sum()), left, top)
        for top in range(0, height - high + 1, max(1, high // 2))
        for left in range(0, width - wide + 1, max(1, wide // 2))
    ]
    _, left, top = max(corners)
    return left, top, left + wide, top + high
