#!/usr/bin/env python3
"""Compare the sizes of files in the old and the new arithmetic of the exact networks, and the time of coding.

    python benchmarks/arithmetics.py IMAGES [--presets NAMES] [--qualities 20 50 80]

Every image is encoded and decoded in each arithmetic in turn, without refinement. Prints a Markdown table;
the time is the processor time of the entropy model and the range coder, of encoding and decoding together.
"""

import argparse
import time
from typing import Any
from unittest.mock import patch

import numpy as np
from rich.progress import track

import trifocal
from trifocal.codecs.codec import Codec
from trifocal.pictures import Picture, list_pictures

HEADER = "| preset | quality | bytes, arithmetic 1 | bytes, arithmetic 2 | difference | time, 2 to 1 |"


def main() -> None:
    arguments = parse()
    paths = list_pictures([arguments.images], recursive=True)
    lines = [HEADER, "|---|---:|---:|---:|---:|---:|"]
    with patch("time.perf_counter", time.process_time):  # load on the machine changes it less
        for preset in arguments.presets:
            codecs = [codec_in(preset, arithmetic) for arithmetic in (1, 2)]
            totals = {quality: np.zeros((2, 2)) for quality in arguments.qualities}
            for path in track(paths, f"{preset}"):
                picture = Picture.open(path)
                for quality, total in totals.items():
                    total += [measure(codec, picture, quality) for codec in codecs]
            for quality, ((old, slow), (new, fast)) in totals.items():
                lines.append(
                    f"| {preset} | {quality:g} | {old:,.0f} | {new:,.0f} | {new / old - 1:+.3%} | "
                    f"{fast / slow:.2f} |"
                )
    print("\n".join(lines))


def codec_in(preset: str, arithmetic: int) -> Codec:
    """A codec that writes files in an arithmetic."""
    codec = trifocal.load(preset, engine="onnx")
    runtime: Any = codec.runtime
    runtime.arithmetics = (arithmetic,)
    if hasattr(runtime, "base"):
        runtime.base.arithmetics = (arithmetic,)
    return codec


def measure(codec: Codec, picture: Picture, quality: float) -> tuple[int, float]:
    """The bytes of the file, and the seconds of the entropy model and the range coder."""
    timings: dict[str, float] = {}
    options = {"refinement": 0} if hasattr(codec.runtime, "base") else {}
    data = codec.encode(picture, quality=quality, timings=timings, **options).to_bytes()
    codec.decode(data, timings=timings)
    return len(data), timings["entropy"] + timings["coding"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare the arithmetics of the exact networks.")
    parser.add_argument("images", help="folder of images")
    parser.add_argument("--presets", nargs="+", default=["compact", "dual-layer-compact"])
    parser.add_argument("--qualities", nargs="+", type=float, default=[20, 50, 80])
    return parser.parse_args()


if __name__ == "__main__":
    main()
