"""Crops of a report: the same region of the original and of each decoded image, at equal bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trifocal.detection.detections import Pixels
from trifocal.errors import OptionError, RateError
from trifocal.evaluation.candidates.candidate import Candidate, PresetCandidate, candidate_for, decoded_image
from trifocal.evaluation.candidates.factory import create_candidate
from trifocal.evaluation.candidates.variant import Variant
from trifocal.evaluation.images import find_images, open_image, relative_name
from trifocal.evaluation.metrics.per_image import find_metric, psnr
from trifocal.evaluation.report.contents import Crop, Panel
from trifocal.evaluation.report.curves import bd_metric
from trifocal.evaluation.report.results_table import ImageResult
from trifocal.evaluation.text_ablation import TextKinds, image_curves
from trifocal.pictures import Picture
from trifocal.types import LEVELS_PER_QUALITY

__all__ = [
    "CropLocation",
    "image_path",
    "largest_error_region",
    "largest_file_within",
    "make_crops",
    "parse_crops",
]

SIZE = 192, 144  # pixels, width and height, if none is given
RATES = {"low rate": 15.0, "middle rate": 45.0, "high rate": 75.0}  # quality of the first candidate
CROP = re.compile(r"(?P<picture>.+):(?P<box>\d+,\d+,\d+,\d+)")

Corners = tuple[int, int, int, int]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class CropLocation:
    """A region of an image, and the reason for its choice.

    Attributes:
        picture: the name of the image.
        why: "worst", "median", "best", or "chosen".
        corners: left, top, right, bottom; None for the region with the largest error of the first candidate.
    """

    picture: str
    why: str
    corners: Corners | None = None


def parse_crops(crops: Sequence[str], data: Path, square: int | None = None) -> list[CropLocation]:
    """Parse PICTURE:X,Y,WIDTH,HEIGHT in pixels, or PICTURE alone; `square` is that of `open_image`.

    Raises:
        OptionError: for an image that is not in the folder, and for a region outside its image.
    """
    names = [relative_name(path, data) for path in find_images(data)] if crops else []
    return [_parse_crop(crop, names, data, square) for crop in crops]


def _parse_crop(crop: str, names: Sequence[str], data: Path, square: int | None) -> CropLocation:
    parsed = None if crop in names else CROP.fullmatch(crop)
    name = crop if parsed is None else parsed["picture"]
    if name not in names:
        raise OptionError(
            f"{data} has no image {name!r}; write a crop as PICTURE:X,Y,WIDTH,HEIGHT or PICTURE, with the "
            "name of an "
            "image in that folder."
        )
    if parsed is None:
        return CropLocation(name, "chosen")
    x, y, width, height = map(int, parsed["box"].split(","))
    picture = open_image(image_path(data, name), square)
    if not width or not height or x + width > picture.width or y + height > picture.height:
        raise OptionError(
            f"The crop {parsed['box']} (x,y,width,height) is not within the "
            f"{picture.width}×{picture.height} pixels "
            f"of {name}."
        )
    return CropLocation(name, "chosen", (x, y, x + width, y + height))


def make_crops(
    variants: Sequence[Variant],
    data: Path,
    rows: Sequence[ImageResult],
    texts: TextKinds,
    locations: Sequence[CropLocation] = (),
    progress: Callable[[float], None] = lambda fraction: None,
    square: int | None = None,
) -> list[Crop]:
    """Crops at low, middle and high rate.

    Args:
        variants: the first one sets the bytes of each crop.
        data: the folder of the images.
        rows: results, which select the images that each variant has coded.
        texts: the texts of the images.
        locations: by default the images where the first variant is worst, median and best against the second.
        progress: called with the fraction done.
        square: as for `open_image`.
    """
    if len(variants) < 2:
        return []
    candidates = [create_candidate(variant, texts, data) for variant in variants]
    titles = {variant.name: variant.title for variant in variants}
    crops: list[Crop] = []
    locations = locations or _locations_by_gain([variant.name for variant in variants[:2]], rows)
    for number, location in enumerate(locations):
        progress(number / len(locations))
        coded = {row.preset for row in rows if row.picture == location.picture}
        chosen = [
            candidate_for(candidate, location.picture) for candidate in candidates if candidate.name in coded
        ]
        if len(chosen) > 1:
            picture = open_image(image_path(data, location.picture), square)
            crops += _crops_at(chosen, picture, location, titles)
    return crops


def _locations_by_gain(names: Sequence[str], rows: Sequence[ImageResult]) -> list[CropLocation]:
    metric = find_metric("ssimulacra2" if any("ssimulacra2" in row.values for row in rows) else "psnr")
    ours, theirs = (image_curves(rows, metric, name) for name in names)
    all_gains = [(bd_metric(theirs[image], ours[image]).value, image) for image in ours if image in theirs]
    gains = sorted((gain, image) for gain, image in all_gains if gain is not None)
    if len(gains) < 3:
        return [
            CropLocation(image, f"{number} of {len(gains)}") for number, (_, image) in enumerate(gains, 1)
        ]
    kept = {"worst": gains[0], "median": gains[len(gains) // 2], "best": gains[-1]}
    return [CropLocation(image, why) for why, (_, image) in kept.items()]


def _crops_at(
    candidates: Sequence[Candidate], picture: Picture, location: CropLocation, titles: Mapping[str, str]
) -> Iterator[Crop]:
    """All candidates within the bytes of the first one's file, at each rate, in the same region."""
    corners = location.corners
    for rate, quality in RATES.items():
        first = candidates[0].encode(picture, quality)
        files = [first, *(largest_file_within(other, picture, len(first)) for other in candidates[1:])]
        decoded: list[tuple[str, int, Pixels]] = [
            (
                titles[candidate.name],
                len(file),
                decoded_image(candidate, file, candidate.decode(file), picture, location.picture).decoded,
            )
            for candidate, file in zip(candidates, files)
            if file is not None
        ]
        corners = corners or largest_error_region(decoded[0][2], picture.rgb)
        panels = _panels(decoded, picture, corners)
        yield Crop(location.picture, f"{location.why}, {rate}", corners, panels)


def _panels(
    decoded: Sequence[tuple[str, int, Pixels]], picture: Picture, corners: Corners
) -> tuple[Panel, ...]:
    left, top, right, bottom = corners
    pixels = picture.width * picture.height
    original = Panel("the original", 0, 0.0, {}, picture.rgb[top:bottom, left:right])
    return original, *(
        Panel(title, size, 8 * size / pixels, {"psnr": psnr(rgb, picture.rgb)}, rgb[top:bottom, left:right])
        for title, size, rgb in decoded
    )


def image_path(data: Path, name: str) -> Path:
    """The path of an image by its name in results."""
    return data / name if data.is_dir() else data


def largest_file_within(candidate: Candidate, picture: Picture, size: int) -> bytes | None:
    """The candidate's best file of at most `size` bytes; None if its smallest file is larger."""
    if isinstance(candidate, PresetCandidate):
        level = candidate.loaded.codec.only_level
        if level is not None:
            file = candidate.encode(picture, level / LEVELS_PER_QUALITY)
            return file if len(file) <= size else None
        try:
            return candidate.encode_within(picture, size)
        except RateError:
            return None
    best, low, high = None, 0, 100
    while low <= high:
        middle = (low + high) // 2
        file = candidate.encode(picture, middle)
        if len(file) <= size:
            best, low = file, middle + 1
        else:
            high = middle - 1
    return best


def largest_error_region(decoded: Pixels, original: Pixels) -> Corners:
    """The region of SIZE with the largest squared error, on a grid of half its size."""
    height, width = original.shape[:2]
    crop_width, crop_height = min(SIZE[0], width), min(SIZE[1], height)
    error = np.square(decoded.astype(np.int32) - original).sum(2)
    regions = [
        (int(error[top : top + crop_height, left : left + crop_width].sum()), left, top)
        for top in range(0, height - crop_height + 1, max(1, crop_height // 2))
        for left in range(0, width - crop_width + 1, max(1, crop_width // 2))
    ]
    _, left, top = max(regions)
    return left, top, left + crop_width, top + crop_height
