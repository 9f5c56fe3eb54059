#!/usr/bin/env python3
"""Compare the sizes of files in both arithmetics of the exact networks, and the time of coding.

    python benchmarks/arithmetics.py IMAGES [--presets NAMES] [--qualities 20 50 80]

Latents of every image are written in each arithmetic in turn; a base layer has quality 20 and no refinement.
Prints a Markdown table; the time is the processor time of writing.
"""

import argparse
import time
from typing import Any

import numpy as np
from rich.progress import track
from walk import codec_in

from trifocal.codecs.results import Latents
from trifocal.pictures import Picture, list_pictures

HEADER = "| preset | quality | bytes, arithmetic 1 | bytes, arithmetic 2 | difference | time, 2 to 1 |"


def main() -> None:
    arguments = parse()
    paths = list_pictures([arguments.images], recursive=True)
    lines = [HEADER, "|---|---:|---:|---:|---:|---:|"]
    for preset in arguments.presets:
        codecs = [codec_in(preset, arithmetic) for arithmetic in (1, 2)]
        totals = {quality: np.zeros((2, 2)) for quality in arguments.qualities}
        for path in track(paths, preset):
            picture = Picture.open(path)
            both = [(codec, analyse(codec, picture)) for codec in codecs]
            for quality, total in totals.items():
                total += [measure(codec, latents, quality) for codec, latents in both]
        for quality, ((old, slow), (new, fast)) in totals.items():
            lines.append(
                f"| {preset} | {quality:g} | {old:,.0f} | {new:,.0f} | {new / old - 1:+.3%} | "
                f"{fast / slow:.2f} |"
            )
    print("\n".join(lines))


def analyse(codec: Any, picture: Picture) -> Latents:
    latents: Latents = codec.analyse(picture, **({"refinement": 0} if hasattr(codec.runtime, "base") else {}))
    return latents


def measure(codec: Any, latents: Latents, quality: float) -> tuple[int, float]:
    """The bytes of the file, and the seconds of writing it."""
    begun = time.process_time()
    data = codec.encode_latents(latents, quality).to_bytes()
    return len(data), time.process_time() - begun


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare the arithmetics of the exact networks.")
    parser.add_argument("images", help="folder of images")
    parser.add_argument("--presets", nargs="+", default=["compact", "dual-layer-compact"])
    parser.add_argument("--qualities", nargs="+", type=float, default=[20, 50, 80])
    return parser.parse_args()


if __name__ == "__main__":
    main()
