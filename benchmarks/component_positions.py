#!/usr/bin/env python3
"""Measure the PSNR of partial files at the positions of their components, and at the missing ones.

    python benchmarks/component_positions.py coco-val/images coco-val/instances.json 10092 176037 274460 ...

The components are the annotated objects of the images with these ids; each partial file has all of them and
lacks the rest. A position is 16 × 16 pixels. It is inside if it and its eight neighbours belong to
components.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from components import annotated
from numpy.typing import NDArray
from rich.progress import track

import trifocal
from trifocal.codecs.components import component_at
from trifocal.codecs.scalable import ScalableCodec
from trifocal.container.components import ComponentLayout
from trifocal.pictures import Picture
from trifocal.types import LATENT_STRIDE

Mask = NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the images")
    parser.add_argument("annotations", type=Path, help="COCO's instances as JSON")
    parser.add_argument("ids", type=int, nargs="+", help="of images with annotated objects")
    parser.add_argument("--quality", type=float, default=50)
    arguments = parser.parse_args()
    chosen = [
        image
        for image in annotated(arguments.folder, arguments.annotations)
        if int(image[0].stem) in arguments.ids
    ]
    codec = trifocal.load("dual-layer-compact")
    assert isinstance(codec, ScalableCodec)
    print("| image | components: partial, whole | inside: partial, whole | missing: partial, base preview |")
    print("|---|---:|---:|---:|")
    for path, objects in track(chosen, "images"):
        print(row(codec, path, objects, arguments.quality), flush=True)


def row(codec: ScalableCodec, path: Path, objects: list[tuple[str, list[float]]], quality: float) -> str:
    """PSNR in dB of both images at the positions of a column, and their difference."""
    picture = Picture.open(path)
    found = [component_at(label, box, picture.width, picture.height) for label, box in objects]
    stream = codec.encode(picture, quality=quality, components=[one for one in found if one is not None])
    part = stream.only(components=[one.label for one in stream.components])
    partial, whole = (codec.decode(one).picture.rgb for one in (part, stream))
    there = positions(ComponentLayout(stream.components, picture.width, picture.height))
    pairs = (
        (there, partial, whole),
        (eroded(there), partial, whole),
        (~there, partial, codec.base_preview(stream).rgb),
    )
    cells = []
    for chosen, *images in pairs:
        mask = np.kron(chosen, np.ones((LATENT_STRIDE, LATENT_STRIDE), np.bool_))
        mask = mask[: picture.height, : picture.width]
        own, other = (psnr(image[mask], picture.rgb[mask]) for image in images)
        cells.append(f"{own:.2f}, {other:.2f} ({own - other:+.2f})")
    return f"| {path.stem} | {' | '.join(cells)} |"


def positions(layout: ComponentLayout) -> Mask:
    """The positions of all components of an image of one tile, [h, w]."""
    x0, y0, x1, y1 = layout.tile_box(0)
    return np.frombuffer(layout.positions(0), np.uint8).reshape(y1 - y0, x1 - x0) > 0


def eroded(mask: Mask) -> Mask:
    """The positions whose eight neighbours are in the mask too; those at the edges count as their mirror."""
    padded = np.pad(mask, 1, mode="edge")
    height, width = mask.shape
    shifted = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    inside: Mask = np.all(shifted, axis=0)
    return inside


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else np.inf


if __name__ == "__main__":
    main()
