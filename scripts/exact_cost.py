"""Compare the bits of an exact entropy model and of its float networks.

python scripts/exact_cost.py PRESET WEIGHTS IMAGES
"""

import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

import trifocal
from trifocal.codecs.network import CodecNetwork
from trifocal.entropy.estimators import PositionRateEstimator
from trifocal.entropy.hyperprior import TorchEntropyNetworks
from trifocal.entropy.latent_coding import code_latents
from trifocal.pictures import Picture, list_pictures
from trifocal.pictures.canvas import TILE
from trifocal.types import HYPER_LATENT_PIXELS

QUALITIES = (10, 30, 50, 70, 90)


@torch.inference_mode()
def bits(network: CodecNetwork, x: Tensor, level: Tensor, exact: bool) -> float:
    """Bits of all images by the frequency tables, with the exact or the float networks.

    Args:
        network: in evaluation mode.
        x: [B, 3, H, W] in 0..1, H and W multiples of 64.
        level: [B].
        exact: whether the networks are the exact ones, as in a file.
    """
    y = network.analyse(x)
    estimator = PositionRateEstimator(network.entropy.cost())
    networks = TorchEntropyNetworks(network.entropy, exact)
    code_latents(networks, estimator, y, level, (y.shape[1], y.shape[2]), network.has_importance_map)
    return float(sum(step.double().sum() for step in estimator.bits_by_call))


def crops(folder: str) -> Iterator[Tensor]:
    """The upper left part of each image, in whole multiples of 64 pixels up to a tile."""
    for path in list_pictures([folder], recursive=True):
        rgb = Picture.open(path).rgb
        step = HYPER_LATENT_PIXELS
        height, width = (min(side, TILE) // step * step for side in rgb.shape[:2])
        x = torch.from_numpy(np.ascontiguousarray(rgb[:height, :width]))
        yield x.permute(2, 0, 1)[None].float() / 255


def main() -> None:
    preset, weights, folder = sys.argv[1:]
    network = trifocal.load(preset, weights=weights).network
    totals = {quality: np.zeros(2) for quality in QUALITIES}
    for number, x in enumerate(crops(folder), start=1):
        for quality, total in totals.items():
            level = torch.tensor([8 * quality])
            total += [bits(network, x, level, exact) for exact in (False, True)]
        print(f"\r{number} images", end="", file=sys.stderr)
    print("\nquality  float bits  exact bits  difference")
    for quality, (float_bits, exact_bits) in totals.items():
        print(f"{quality:7}  {float_bits:10.0f}  {exact_bits:10.0f}  {exact_bits / float_bits - 1:+10.3%}")


if __name__ == "__main__":
    main()
