#!/usr/bin/env python3
"""Measure what a perceptual metric is worth in squared error: the exchange rates of
trifocal/losses/visual.py.

    python scripts/exchange_rates.py compact-psnr --data TRAINING_DATA

At each quality level, the rate curve of a codec gives the bits that one unit of a metric costs, −dR/dD.
Divided by λ of the level, this is the squared error that the unit is worth. For squared error itself the
value is close to 1 if the codec was trained for it. Held-out crops of the training data are coded at pairs of
neighbouring levels; the exchange rate is the mean over levels.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trifocal.cli.console import Console, reporting
from trifocal.codecs.network import CodecNetwork
from trifocal.data import read_pictures, split
from trifocal.errors import TrifocalError
from trifocal.losses import Cvvdp, Ssimulacra2, bits_per_pixel, mean_squared_error, quality_lambda
from trifocal.losses.feature_views import EfficientNetDistance
from trifocal.presets import load
from trifocal.training.validation import validation_batch

LEVELS = (100, 240, 400, 560, 700)
APART = 48  # levels between the two points of a slope
CROP = 256
Term = Callable[[Tensor, Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the exchange rates of perceptual metrics.")
    parser.add_argument("preset", help="codec whose rate curve is measured, such as compact-psnr")
    parser.add_argument("--weights", help="custom weights (.safetensors) of that preset")
    parser.add_argument(
        "--data", nargs="+", required=True, help="folders, images or tar shards of the training data"
    )
    parser.add_argument(
        "--features", action="store_true", help="also those of EfficientNet-Lite0 (losses/feature_views.py)"
    )
    parser.add_argument("--crops", type=int, default=32, help="held-out crops, 32 at most")
    arguments = parser.parse_args()
    terms: dict[str, Term] = {
        "mse": mean_squared_error,
        "ssimulacra2 (S)": Ssimulacra2(),
        "cvvdp (10 - JOD)": Cvvdp(),
    }
    if arguments.features:
        terms["features"] = EfficientNetDistance()
    with reporting(Console()) as report:
        pictures = read_pictures(arguments.data, CROP, lambda key: report(0.0, f"reading {key}"))
        _, held_out = split(pictures)
        x = validation_batch(held_out, CROP)[: arguments.crops]
        codec = load(arguments.preset, weights=arguments.weights).network
        rates = exchange_rates(codec, x, terms, lambda fraction: report(fraction, "coding"))
    print("level   " + "".join(f"{name:>18}" for name in terms))
    for level, row in zip(LEVELS, rates):
        print(f"{level:5}   " + "".join(f"{rate:18.2f}" for rate in row))
    print(" mean   " + "".join(f"{sum(column) / len(column):18.2f}" for column in zip(*rates)))


@torch.inference_mode()
def exchange_rates(
    codec: CodecNetwork,
    x: Tensor,
    terms: dict[str, Term],
    progress: Callable[[float], None],
    levels: Sequence[int] = LEVELS,
) -> list[list[float]]:
    """−dR/dD divided by λ at each level, for each term; x [B, 3, H, W] in 0..1, rates in bits per pixel,
    means over the crops.
    """
    rates = []
    for number, level in enumerate(levels, start=1):
        (rate_low, low), (rate_high, high) = (
            operating_point(codec, x, level + offset, terms) for offset in (-APART // 2, APART // 2)
        )
        trade = float(quality_lambda(torch.tensor(float(level))))
        rates.append([(rate_high - rate_low) / (a - b) / trade for a, b in zip(low, high)])
        progress(number / len(levels))
    return rates


def operating_point(
    codec: CodecNetwork, x: Tensor, level: int, terms: dict[str, Term]
) -> tuple[float, list[float]]:
    """Bits per pixel and the value of each term at a level, means over the crops."""
    rates, values = [], []
    for crop in x.split(4):
        output = codec(crop, torch.full((len(crop),), level))
        rates.append(bits_per_pixel(output, crop))
        values.append(torch.stack([term(output.x_hat, crop) for term in terms.values()], dim=1))
    return float(torch.cat(rates).mean()), torch.cat(values).mean(0).tolist()


if __name__ == "__main__":
    try:
        main()
    except (TrifocalError, OSError) as error:
        sys.exit(str(error))
