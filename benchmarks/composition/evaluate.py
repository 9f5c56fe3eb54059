#!/usr/bin/env python3
"""Compare composed decodes with partial and whole ones, where components are missing.

    python benchmarks/composition/evaluate.py OUT --coco coco-val [--butteraugli] [--save]
    python benchmarks/composition/evaluate.py OUT --generator GENERATOR --cache CACHE

Without --generator, the images of --coco go through files: `trifocal decode --compose`.

Prints a JSON object, which OUT/result.json has too. Distances are between originals and decodes, in the last
features of EfficientNet-Lite1, averaged over a patch and divided by the deviation of the originals' values.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from model import (
    HELD_OUT,
    NOISE,
    Generator,
    Latents,
    code,
    load_generator,
    load_network,
)
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

import trifocal
from trifocal.codecs.tile_coding import tile_parts, to_pixels
from trifocal.codecs.torch_runtime import image_tensor
from trifocal.container.components import REST, ComponentLayout
from trifocal.detection.efficientnet_lite import EfficientNetLite
from trifocal.pictures import Picture
from trifocal.training.components import object_components
from trifocal.transforms.composition import MIDDLE_LEVEL
from trifocal.types import LATENT_STRIDE

CPU = torch.device("cpu")
PATCH = 128  # pixels; patches overlap by half
NAMES = ("original", "partial", "composed", "whole")


class Item(NamedTuple):
    name: str
    rgb: NDArray[np.uint8]  # [H, W, 3]
    boxes: NDArray[np.float32]  # x0, y0, x1, y1 of the objects, [N, 4]
    level: int
    coded: Latents | None  # None for what goes through files


def coco_items(network: Any | None, folder: Path) -> Iterator[Item]:
    """Every second image with annotated objects, from the second, at quality 50.

    Args:
        network: None for what goes through files.
    """
    boxes = defaultdict(list)
    for one in json.loads((folder / "instances.json").read_text())["annotations"]:
        x, y, width, height = one["bbox"]
        boxes[one["image_id"]].append([x, y, x + width, y + height])
    for number in sorted(boxes)[1::2]:
        path = folder / "images" / f"{number:012d}.jpg"
        rgb = np.array(Picture.open(path).rgb)
        if network is None:
            yield Item(path.stem, rgb, np.asarray(boxes[number]), MIDDLE_LEVEL, None)
            continue
        height, width = rgb.shape[:2]
        padded = F.pad(image_tensor(rgb, CPU), (0, -width % 64, 0, -height % 64), mode="replicate")
        coded = code(network, padded, MIDDLE_LEVEL, network.input_size(width, height))
        yield Item(path.stem, rgb, np.asarray(boxes[number]), MIDDLE_LEVEL, coded)


def cached_items(folder: Path) -> Iterator[Item]:
    """The images of the cache that training leaves out."""
    for path in sorted(folder.glob("*.pt"))[:HELD_OUT]:
        item = torch.load(path, weights_only=False)
        coded = Latents(*(item[name].float() for name in ("y", "p", "f", "pv")))
        yield Item(path.stem, item["x"].numpy(), np.asarray(item["boxes"]), item["level"], coded)


def decode_files(item: Item) -> tuple[dict[str, Tensor], Tensor] | None:
    """As `decode`, by the bundled weights and through files; None for an image without objects, since its
    file has no components.
    """
    height, width = item.rgb.shape[:2]
    layout, kept = layout_and_kept(item)
    if not layout.components:
        return None
    whole = trifocal.encode(Picture(item.rgb), quality=50, components=layout.components)
    objects = whole.only(components=layout.components[0].label)
    decodes = [
        trifocal.decode(stream, compose=compose, notify=lambda notice: None).picture.rgb
        for stream, compose in ((objects, False), (objects, True), (whole, False))
    ]
    images = [image_tensor(rgb, CPU)[0] for rgb in (item.rgb, *decodes)]
    return dict(zip(NAMES, images)), missing_pixels(kept)[:height, :width]


def layout_and_kept(item: Item) -> tuple[ComponentLayout, Tensor]:
    """The objects of an image as components, and the positions that they cover, bool, [h, w]."""
    height, width = item.rgb.shape[:2]
    layout = ComponentLayout(object_components(item.boxes, width, height), width, height)
    return layout, torch.from_numpy(tile_parts(layout, 0).numbers != REST)


def missing_pixels(kept: Tensor) -> Tensor:
    """The pixels of positions that are not kept, bool."""
    return (~kept).repeat_interleave(LATENT_STRIDE, 0).repeat_interleave(LATENT_STRIDE, 1)


@torch.no_grad()
def decode(network: Any, generator: Generator, item: Item, share: float) -> tuple[dict[str, Tensor], Tensor]:
    """Images of NAMES, [3, H, W], 0..1; and which pixels are missing, bool, [H, W]."""
    height, width = item.rgb.shape[:2]
    _, kept = layout_and_kept(item)
    assert item.coded is not None
    latent, preview, features = (one[None] for one in item.coded[:3])
    level = torch.tensor([item.level])
    noise = torch.randn(*latent.shape[:3], NOISE, generator=torch.Generator().manual_seed(0))
    composed = generator(latent, kept[None], preview, features, level, noise)
    mask = kept[None, ..., None]
    composed = torch.where(mask, composed, preview + share * (composed - preview))
    latents = torch.where(mask, latent, preview), composed, latent
    decodes = [network.synthesis(one, level)[0, :, :height, :width].clamp(0, 1) for one in latents]
    images = dict(zip(NAMES, (image_tensor(item.rgb, CPU)[0], *decodes)))
    return images, missing_pixels(kept)[:height, :width]


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of [N, C] and [M, C], with the kernel (xᵀy / C + 1)³."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def inside(a: Tensor) -> Tensor:
        values = kernel(a, a)
        return (values.sum() - values.trace()) / len(a) / (len(a) - 1)

    x, y = x.double(), y.double()
    return float(inside(x) + inside(y) - 2 * kernel(x, y).mean())


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Between normal distributions with the means and covariances of [N, C] and [M, C]."""
    x, y = x.double(), y.double()
    a, b = torch.cov(x.T), torch.cov(y.T)
    root = torch.linalg.eigvals(a @ b).real.clamp(min=0).sqrt().sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * root)


def missing_patches(missing: Tensor) -> Iterator[tuple[slice, slice]]:
    """Patches of which at least nine tenths are missing."""
    height, width = missing.shape
    for top in range(0, height - PATCH + 1, PATCH // 2):
        for left in range(0, width - PATCH + 1, PATCH // 2):
            area = slice(top, top + PATCH), slice(left, left + PATCH)
            if missing[area].float().mean() >= 0.9:
                yield area


def half_differences(features: dict[str, Tensor], owners: list[str]) -> list[float]:
    """Kernel distance of composed minus partial decodes over 200 random halves of the images: 2.5, 97.5 %."""
    own, random = np.array(owners), np.random.default_rng(0)
    names, differences = np.unique(own), []
    for _ in range(200):
        half = random.choice(names, len(names) // 2, replace=False)
        rows = np.concatenate([np.flatnonzero(own == one) for one in half])
        original, partial, composed = (features[name][rows] for name in NAMES[:3])
        differences.append(kernel_distance(composed, original) - kernel_distance(partial, original))
    return [round(float(value), 5) for value in np.percentile(differences, [2.5, 97.5])]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--generator", type=Path, help="exported weights in place of the bundled ones")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--coco", type=Path, help="folder with images/ and instances.json")
    source.add_argument("--cache", type=Path, help="folder of cache.py; its first 40 images are used")
    parser.add_argument("--images", type=int, default=60, help="most images; default: 60")
    parser.add_argument("--share", type=float, help="of what the generator adds; default: 1")
    parser.add_argument("--butteraugli", action="store_true", help="measure Butteraugli's 3-norm too")
    parser.add_argument("--save", action="store_true", help="save original, partial and composed as PNG")
    arguments = parser.parse_args()
    for option in ("cache", "share"):
        if getattr(arguments, option) is not None and not arguments.generator:
            parser.error(f"--{option} needs --generator.")
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    result = evaluate(arguments)
    print(json.dumps(result, indent=1))
    (arguments.out / "result.json").write_text(json.dumps(result, indent=1))


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    network = load_network() if arguments.generator else None
    generator = load_generator(arguments.generator, network) if arguments.generator else None
    share = 1 if arguments.share is None else arguments.share
    lite = EfficientNetLite(1)
    butteraugli = load_measure() if arguments.butteraugli else None
    vectors: dict[str, list[Tensor]] = {name: [] for name in NAMES}
    values: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in NAMES[1:]}
    owners: list[str] = []
    used = 0
    items = cached_items(arguments.cache) if arguments.cache else coco_items(network, arguments.coco)
    for item in track(items, "images", console=Console(stderr=True)):
        decodes = decode_files(item) if generator is None else decode(network, generator, item, share)
        if decodes is None:
            continue
        images, missing = decodes
        if missing.float().mean() < 0.2:
            continue
        used += 1
        for area in missing_patches(missing):
            patches = torch.stack([images[name][:, *area] for name in NAMES])
            with torch.no_grad():
                pooled = lite.stages(patches, (4,))[0].mean((2, 3))
            for name, vector in zip(NAMES, pooled):
                vectors[name].append(vector)
            owners.append(item.name)
        for name in NAMES[1:]:
            error = (images[name] - images["original"])[:, missing].square().mean()
            values[name]["psnr"].append(float(-10 * torch.log10(error)))
            if butteraugli is not None:  # pixels that are present are the original's
                decoded = torch.where(missing, images[name], images["original"])
                values[name]["butteraugli"].append(butteraugli(item.rgb, to_pixels(decoded.numpy())))
        if arguments.save:
            row = torch.cat([images[name] for name in NAMES[:3]], 2)
            Image.fromarray(to_pixels(row.numpy())).save(arguments.out / f"{item.name}.png")
        if used == arguments.images:
            break
    if len({*owners}) < 2:
        raise SystemExit("Fewer than two images have a patch of which nine tenths are missing; give others.")
    deviation = torch.stack(vectors["original"]).std()
    features = {name: torch.stack(rows) / deviation for name, rows in vectors.items()}
    result: dict[str, Any] = {"images": used, "patches": len(owners)}
    for name in NAMES[1:]:
        result[name] = {
            "kernel distance": round(kernel_distance(features[name], features["original"]), 5),
            "frechet distance": round(frechet_distance(features[name], features["original"]), 3),
            **{measure: round(float(np.mean(ones)), 3) for measure, ones in values[name].items()},
        }
    result["kernel distance, composed - partial, 2.5 and 97.5 %"] = half_differences(features, owners)
    return result


def load_measure() -> Any:
    """Butteraugli of an original and a decode, bytes [H, W, 3]."""
    from trifocal.evaluation.metrics.human_vision import load_butteraugli
    from trifocal.evaluation.metrics.pair import Pair

    measure = load_butteraugli()
    return lambda original, decoded: measure(Pair(original=original, decoded=decoded))


if __name__ == "__main__":
    main()
