#!/usr/bin/env python3
"""Measure what components cost: bytes and time of files with annotated objects as components, and without.

    python benchmarks/components.py coco-val/images coco-val/instances.json [--images 20] [--qualities 20 50]

Sizes are those of files, with headers. Images without annotated objects are left out. Times are processor
time of encoding with `refinement=0`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from rich.progress import track

import trifocal
from trifocal.codecs.codec import Codec
from trifocal.codecs.components import ComponentInput, component_at
from trifocal.detection.labels import CATEGORIES
from trifocal.pictures import Picture


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the images")
    parser.add_argument("annotations", type=Path, help="COCO's instances as JSON")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--detected", action="store_true", help='components="detection" instead')
    parser.add_argument("--qualities", type=float, nargs="+", default=[20, 50])
    arguments = parser.parse_args()
    images = list(annotated(arguments.folder, arguments.annotations))[: arguments.images]
    codec = trifocal.load("dual-layer-compact")
    encode(codec, images[0][0], 20, None)  # loads the networks
    print("| quality | images | components | bytes without | with | bytes | largest | time |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for quality in arguments.qualities:
        rows = [
            measure(codec, *image, quality, arguments.detected)
            for image in track(images, f"quality {quality:g}")
        ]
        print(summary(quality, rows), flush=True)


def annotated(folder: Path, annotations: Path) -> Iterator[tuple[Path, list[tuple[str, list[float]]]]]:
    """Each image with the label and the box x0, y0, x1, y1 of its objects."""
    data = json.loads(annotations.read_text())
    objects = defaultdict(list)
    for one in data["annotations"]:
        x, y, width, height = one["bbox"]
        box = [x, y, x + width, y + height]
        objects[one["image_id"]].append((CATEGORIES[one["category_id"]][0], box))
    names = {one["file_name"]: objects[one["id"]] for one in data["images"]}
    for path in sorted(folder.glob("*.jpg")):
        if names.get(path.name):
            yield path, names[path.name]


def measure(
    codec: Codec, path: Path, objects: list[tuple[str, list[float]]], quality: float, detected: bool
) -> tuple[int, int, int, float, float]:
    """Number of components, bytes without and with components, and seconds of both."""
    picture = Picture.open(path)
    found = [component_at(label, box, picture.width, picture.height) for label, box in objects]
    components = "detection" if detected else [one for one in found if one is not None]
    plain, seconds = encode(codec, path, quality, None)
    parted, parted_seconds = encode(codec, path, quality, components)
    return len(parted.components), plain.size, parted.size, seconds, parted_seconds


def encode(
    codec: Codec, path: Path, quality: float, components: ComponentInput | None
) -> tuple[trifocal.Bitstream, float]:
    began = time.process_time()
    stream = codec.encode(path, quality=quality, refinement=0, components=components)
    return stream, time.process_time() - began


def summary(quality: float, rows: list[tuple[int, int, int, float, float]]) -> str:
    """A row of the table: sums over the images, and the largest growth of one."""
    count, plain, parted, seconds, parted_seconds = map(sum, zip(*rows, strict=True))
    largest = max(row[2] / row[1] for row in rows) - 1
    return (
        f"| {quality:g} | {len(rows)} | {count} | {plain:,} | {parted:,} | {parted / plain - 1:+.2%} | "
        f"{largest:+.2%} | {parted_seconds / seconds:.2f} × |"
    )


if __name__ == "__main__":
    main()
