#!/usr/bin/env python3
"""Compare the APs of a detector on the decoded images of two codecs at equal bits, with a paired interval.

    python scripts/detection_difference.py compact compact-psnr COCO_VAL --detector picodet.onnx

At each quality of the first codec, the AP of the other at the same bits per pixel is interpolated linearly
over the logarithm of its rate. The interval is from bootstrap samples of the images, the same for both (Efron
1979). COCO_VAL is a folder of images with COCO's instances.json in it or above it. Codecs are named as in
`trifocal evaluate`, also LABEL=PRESET:WEIGHTS.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trifocal.cli.console import Console, reporting
from trifocal.errors import TrifocalError
from trifocal.evaluation.candidates.factory import load_custom_weights
from trifocal.evaluation.tasks.confidence import bootstrap_ap, run_detection

QUALITIES = {"first": (10, 30, 60), "other": (0, 10, 20, 35, 60)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first")
    parser.add_argument("other")
    parser.add_argument("data", type=Path)
    parser.add_argument("--detector", required=True, help="as `trifocal evaluate --detector`")
    parser.add_argument("--qualities", type=float, nargs="+", default=QUALITIES["first"], help="of the first")
    parser.add_argument(
        "--other-qualities", type=float, nargs="+", default=QUALITIES["other"], help="of the other"
    )
    parser.add_argument("--draws", type=int, default=200, help="bootstrap samples")
    arguments = parser.parse_args()
    first, other = load_custom_weights([arguments.first, arguments.other])
    points = [(first, q) for q in arguments.qualities] + [(other, q) for q in arguments.other_qualities]
    with reporting(Console()) as report:
        runs, rates = [], []
        for number, (variant, quality) in enumerate(points):
            report(0.9 * number / len(points), f"{variant.name}, quality {quality:g}")
            run, rate = run_detection(variant, quality, arguments.data, arguments.detector)
            runs.append(run)
            rates.append(rate)
        table = bootstrap_ap(runs, arguments.draws, progress=lambda part: report(0.9 + 0.1 * part, "samples"))
    count = len(arguments.qualities)
    measured = np.array([[run.average_precision("bbox")[0] for run in runs]])
    values, draws = (differences(aps, rates, count) for aps in (measured, table))
    print(
        f"AP of {first.name}, and its difference from {other.name} at equal bits per pixel with a 95 % "
        "interval"
    )
    for number in range(count):
        low, high = np.percentile(draws[:, number], [2.5, 97.5])
        print(
            f"quality {points[number][1]:4g}  {rates[number]:.4f} bpp  AP {measured[0, number]:.4f}  "
            f"{values[0, number]:+.4f}  [{low:+.4f}, {high:+.4f}]"
        )
    low, high = np.percentile(draws.mean(1), [2.5, 97.5])
    print(f"mean {values.mean():+.4f}  [{low:+.4f}, {high:+.4f}]")


def differences(aps: NDArray[np.float64], rates: Sequence[float], count: int) -> NDArray[np.float64]:
    """AP of the first `count` points minus that of the others at the same rate; [draws, points] → [draws,
    count].
    """
    at = np.log(rates)
    return np.stack([row[:count] - np.interp(at[:count], at[count:], row[count:]) for row in aps])


if __name__ == "__main__":
    try:
        main()
    except (TrifocalError, OSError) as error:
        sys.exit(str(error))
