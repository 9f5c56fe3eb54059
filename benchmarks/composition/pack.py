#!/usr/bin/env python3
"""Write the bundled weights trifocal/weights/composition.safetensors from a generator.

    python benchmarks/composition/pack.py generator.safetensors [--precision 6]

The bundled network has no noise as an input: the columns of the first layer that read it are left out.
"""

import argparse
from pathlib import Path

import numpy as np
from model import NOISE
from safetensors.numpy import load_file, save

import trifocal
from trifocal.codecs.composition import TRAINED_FOR, WEIGHTS
from trifocal.utils.files import atomic_write
from trifocal.utils.packed_weights import pack


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("generator", type=Path, help="exported weights")
    parser.add_argument(
        "--precision", type=float, default=6, help="as for scripts/pack_weights.py; default: 6"
    )
    given = parser.parse_args()
    weights = {name: w.astype(np.float32) for name, w in load_file(given.generator).items()}
    mark = trifocal.load("dual-layer-compact").fingerprint_in(2)
    weights["stem.weight"] = weights["stem.weight"][:, :-NOISE]
    with atomic_write(WEIGHTS) as stream:
        stream.write(save(pack(weights, given.precision), metadata={TRAINED_FOR: f"{mark:08x}"}))
    print(f"{WEIGHTS.name}: {WEIGHTS.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
