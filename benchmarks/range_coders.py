"""Processor seconds with each range coder: python benchmarks/range_coders.py IMAGE…

One process codes all images with constriction's, and another with that in Python. Prints means over the
images, of the fastest of five calls each.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRESETS = ("compact", "dual-layer-compact")
QUALITIES = (20, 40, 70)
CALLS = 5
CHILD = "sys.path.insert(0, sys.argv[1]); import range_coders; range_coders.print_rows(sys.argv[2:])"
WITHOUT_CONSTRICTION = "sys.modules['constriction'] = None"


def seconds(function: Callable[[Any], Any], argument: Any) -> float:
    """Processor seconds of the fastest of several calls."""
    times = []
    for _ in range(CALLS):
        began = time.process_time()
        function(argument)
        times.append(time.process_time() - began)
    return min(times)


def print_rows(images: list[str]) -> None:
    """As JSON: preset, quality, and means of bytes, seconds of encoding and seconds of decoding."""
    import trifocal

    pictures = [trifocal.Picture.open(path) for path in images]
    rows = []
    for preset in PRESETS:
        for quality in QUALITIES:
            encoder = trifocal.Encoder(preset, trifocal.EncodeOptions(quality=quality))
            files = [encoder(picture) for picture in pictures]
            size = sum(file.size for file in files)
            encode = sum(seconds(encoder, picture) for picture in pictures)
            decode = sum(seconds(trifocal.decode, file) for file in files)
            rows.append([preset, quality, *(total / len(images) for total in (size, encode, decode))])
    print(json.dumps(rows))


def main(images: list[str]) -> None:
    results = []
    for lines in ([], [WITHOUT_CONSTRICTION]):
        code = "; ".join(["import sys", *lines, CHILD])
        line = [sys.executable, "-c", code, str(Path(__file__).parent), *images]
        results.append(json.loads(subprocess.run(line, stdout=subprocess.PIPE, check=True).stdout))
    print("preset              quality   bytes  encode  in Python  decode  in Python")
    for native, plain in zip(*results, strict=True):
        preset, quality, size, encode, decode = native
        assert plain[:3] == native[:3]
        print(f"{preset:20}{quality:7}{size:8.0f}{encode:8.3f}{plain[3]:11.3f}{decode:8.3f}{plain[4]:11.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
