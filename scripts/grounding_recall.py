#!/usr/bin/env python3
"""Measure which annotated objects grounding finds, for the label lists of tasks and for words.

    python scripts/grounding_recall.py coco-val/images coco-val/instances.json [--grounder compact]

An annotated object whose box has sides of at least 32 pixels is found if a box that was found has an
intersection over union of 0.5 or more with it; `label` counts only boxes with the object's label. For words,
"the LABEL" is searched for each label that is annotated in the image. Objects that COCO does not annotate
cannot be counted. `positions` is the share of latent positions, with those of the padding, that belong to
components.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from trifocal.codecs.components import component_request
from trifocal.container import Component
from trifocal.container.components import ComponentLayout
from trifocal.detection.detections import Floats, Pixels
from trifocal.detection.labels import CATEGORIES, TASK_LABELS
from trifocal.grounding.compact import CompactGrounder
from trifocal.grounding.grounder import Grounded, Grounder
from trifocal.grounding.loading import GROUNDERS, load_grounder
from trifocal.pictures import Picture

MIN_SIDE, OVERLAP = 32, 0.5


@dataclass
class Recorded:
    """A grounder that keeps what it found last."""

    grounder: Grounder
    last: Grounded | None = None

    @property
    def vocabulary(self) -> frozenset[str] | None:
        return self.grounder.vocabulary

    def find(self, pixels: Pixels, labels: Sequence[str]) -> Grounded:
        self.last = self.grounder.find(pixels, labels)
        return self.last


@dataclass(frozen=True)
class Image:
    """An image and its annotated objects: boxes x0, y0, x1, y1 [N, 4] in pixels, and N labels."""

    path: Path
    boxes: Floats
    labels: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the images")
    parser.add_argument("annotations", type=Path, help="COCO's instances as JSON")
    parser.add_argument("--images", type=int, help="only the first ones")
    parser.add_argument("--grounder", choices=GROUNDERS, default="compact")
    arguments = parser.parse_args()
    images = annotated(arguments.folder, arguments.annotations)[: arguments.images]
    grounder = load_grounder(arguments.grounder)
    print("| searched | labels | of them searched | objects | found | label | boxes | positions |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for task, labels in TASK_LABELS.items():
        count = len(labels if grounder.vocabulary is None else grounder.vocabulary.intersection(labels))
        print(row(task, f"{len(labels)} | {count}", images, grounder), flush=True)
    if arguments.grounder == "compact":
        maps = CompactGrounder(named_categories=lambda words: {})
        print(row("words, MiniLM", "|", images, grounder, words=True), flush=True)
        print(row("words, relevance map", "|", images, maps, words=True), flush=True)
    else:
        print(row("words", "|", images, grounder, words=True), flush=True)


def annotated(folder: Path, annotations: Path) -> list[Image]:
    """The images of a folder that have annotations."""
    data = json.loads(annotations.read_text("utf-8"))
    objects = defaultdict(list)
    for one in data["annotations"]:
        x, y, width, height = one["bbox"]
        objects[one["image_id"]].append((CATEGORIES[one["category_id"]][0], [x, y, x + width, y + height]))
    found = []
    for one in sorted(data["images"], key=lambda image: image["file_name"]):
        path, rows = folder / one["file_name"], objects[one["id"]]
        boxes = np.array([box for _, box in rows], np.float64).reshape(-1, 4)
        if path.exists():
            found.append(Image(path, boxes, tuple(label for label, _ in rows)))
    return found


def row(title: str, counts: str, images: Sequence[Image], grounder: Grounder, words: bool = False) -> str:
    """A row of the table: a task's labels, or words for the annotated labels of each image."""
    recorded = Recorded(grounder)
    totals, shares = np.zeros(4, int), []
    for image in track(images, title, console=Console(stderr=True)):
        picture = Picture.open(image.path)
        wanted = [f"the {label}" for label in sorted({*image.labels})] if words else [title]
        if not wanted:
            continue
        request = component_request(wanted, notify=lambda notice: None, grounder=recorded)
        assert request is not None
        components = request.choose(picture.rgb)
        assert recorded.last is not None
        totals += counted(image, recorded.last)
        shares.append(share(components, picture.width, picture.height))
    objects, found, labelled, boxes = totals.tolist()
    return (
        f"| {title} | {counts} | {objects} | {found / objects:.1%} | {labelled / objects:.1%} | "
        f"{boxes / len(shares):.1f} | {np.mean(shares):.1%} |"
    )


def counted(image: Image, found: Grounded) -> tuple[int, int, int, int]:
    """Numbers of large annotated objects, of those found, of those found with their label, and of boxes."""
    large = ((image.boxes[:, 2:] - image.boxes[:, :2]) >= MIN_SIDE).all(axis=1)
    overlapping = intersection_over_union(image.boxes[large], found.boxes) >= OVERLAP
    own = np.array(image.labels, np.str_)[large]
    theirs = np.array([label.removeprefix("the ") for label in found.labels], np.str_)
    same = overlapping & (own[:, None] == theirs[None])
    return int(large.sum()), int(overlapping.any(axis=1).sum()), int(same.any(axis=1).sum()), len(found)


def intersection_over_union(first: Floats, second: Floats) -> Floats:
    """[N, 4] and [M, 4] → [N, M]."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


def share(components: Sequence[Component], width: int, height: int) -> float:
    """The share of the latent positions of an image that belong to components."""
    layout = ComponentLayout(tuple(components), width, height)
    positions = np.frombuffer(b"".join(map(layout.positions, range(layout.tile_count))), np.uint8)
    return float((positions > 0).mean())


if __name__ == "__main__":
    main()
