#!/usr/bin/env python3
"""Encode training images once, for train.py: a file with the latents of a crop of each.

    python benchmarks/composition/cache.py CACHE --annotated train-coco-00.tar ... --photos train-photo-00.tar

Crops have at most 448 × 448 pixels. A file has about 2 MB.
"""

from __future__ import annotations

import argparse
import io
import os
from pathlib import Path

import numpy as np
import torch
from model import code, load_network
from PIL import Image
from rich.progress import track

from trifocal.data.sources import list_images
from trifocal.transforms.composition import MIDDLE_LEVEL

LARGEST_CROP = 448
LARGEST_PHOTO = 900  # larger photographs are halved


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cache", type=Path, help="folder to write")
    parser.add_argument("--annotated", nargs="+", default=[], help="archives with annotated objects")
    parser.add_argument("--photos", nargs="+", default=[], help="archives without annotations")
    parser.add_argument("--images", type=int, help="stop after this many; default: all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(1)
    items = [(file, False) for archive in arguments.annotated for file in list_images([archive])]
    items += [(file, True) for archive in arguments.photos for file in list_images([archive])]
    random.shuffle(items)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    network = load_network()
    for number, (file, photo) in enumerate(track(items[: arguments.images], "images")):
        image = Image.open(io.BytesIO(file.content.read())).convert("RGB")
        boxes = np.zeros((0, 4), np.float32) if photo else file.annotations()[1].copy()
        if photo and max(image.size) > LARGEST_PHOTO:
            image = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
        rgb = np.asarray(image)
        height, width = (min(side // 64 * 64, LARGEST_CROP) for side in rgb.shape[:2])
        top, left = (int(random.integers(s - t + 1)) for s, t in zip(rgb.shape[:2], (height, width)))
        pixels = torch.from_numpy(rgb[top : top + height, left : left + width].copy())
        boxes -= np.asarray([left, top, left, top], np.float32)
        level = MIDDLE_LEVEL if random.random() < 0.6 else int(random.integers(10, 91)) * 8
        coded = code(network, pixels.permute(2, 0, 1)[None].float() / 255, level)
        preview = (coded.pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous()
        item = {
            "x": pixels,  # [H, W, 3]
            "pv": preview,  # [H, W, 3]
            "y": coded.latent.half(),
            "p": coded.preview.half(),
            "f": coded.features.half(),
            "level": level,
            "boxes": torch.from_numpy(boxes),  # [N, 4]
        }
        temporary = arguments.cache / f"{number:05d}.tmp"
        torch.save(item, temporary)
        os.replace(temporary, temporary.with_suffix(".pt"))


if __name__ == "__main__":
    main()
