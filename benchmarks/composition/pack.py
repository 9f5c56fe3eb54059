#!/usr/bin/env python3
"""Write the bundled weights trifocal/weights/composition.safetensors from a generator.

    python benchmarks/composition/pack.py generator.safetensors [--precision 12]

The bundled network has no noise as an input: the columns of the first layer that read it are left out.
"""

import argparse
import sys
from pathlib import Path

import torch
from model import NOISE, Generator

import trifocal
from trifocal.codecs.composition import TRAINED_FOR, WEIGHTS
from trifocal.errors import TrifocalError
from trifocal.transforms.composition import LATENT_CHANNELS
from trifocal.utils.packed_weights import pack, write_packed
from trifocal.weights import check_arrays, read_arrays


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("generator", type=Path, help="exported weights")
    parser.add_argument(
        "--precision", type=float, default=12, help="as for scripts/pack_weights.py; default: 12"
    )
    given = parser.parse_args()
    try:
        write_weights(given.generator, given.precision)
    except (TrifocalError, ValueError, OSError) as error:
        sys.exit(str(error))
    print(f"{WEIGHTS.name}: {WEIGHTS.stat().st_size:,} bytes")


def write_weights(generator: Path, precision: float) -> None:
    """Replace WEIGHTS. Raises WeightsError, ValueError or OSError, and then leaves them unchanged."""
    weights = read_arrays(generator)
    wanted = Generator(torch.ones(LATENT_CHANNELS)).state_dict()
    check_arrays(weights, {name: ["f", list(w.shape)] for name, w in wanted.items()}, generator.name)
    weights["stem.weight"] = weights["stem.weight"][:, :-NOISE]
    mark = trifocal.load("dual-layer-compact").fingerprint_in(2)
    write_packed(WEIGHTS, weights, pack(weights, precision), {TRAINED_FOR: f"{mark:08x}"})


if __name__ == "__main__":
    main()
