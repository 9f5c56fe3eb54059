#!/usr/bin/env python3
"""Pack weights that no file's fingerprint covers, in place: a third to a half of their size as float16.

    python scripts/pack_weights.py trifocal/weights/towers.safetensors --precision 8

Prints the size before and after, and the signal-to-noise ratio of the packed tensors.
"""

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from trifocal.utils.files import atomic_write
from trifocal.utils.packed_weights import pack, unpack
from trifocal.weights import metadata_of, read_arrays


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, help="safetensors file, which is replaced")
    parser.add_argument(
        "--precision", type=float, required=True, help="steps in the root mean square of a row"
    )
    parser.add_argument(
        "--keep", metavar="PREFIX", help="leave tensors whose names start with this as float16"
    )
    given = parser.parse_args()
    before, weights = given.weights.stat().st_size, read_arrays(given.weights)
    kept = {
        name: w.astype(np.float16) if w.dtype.kind == "f" else w
        for name, w in weights.items()
        if given.keep and name.startswith(given.keep)
    }
    others = {name: w for name, w in weights.items() if name not in kept}
    packed = pack(others, given.precision)
    with atomic_write(given.weights) as stream:
        stream.write(save(packed | kept, metadata=metadata_of(given.weights) or None))
    found = unpack(packed)
    signal = sum(float((w.astype(np.float64) ** 2).sum()) for w in others.values())
    noise = sum(float(((found[name].astype(np.float64) - w) ** 2).sum()) for name, w in others.items())
    print(
        f"{given.weights.name}: {before:,} to {given.weights.stat().st_size:,} bytes, "
        f"{10 * np.log10(signal / noise) if noise else np.inf:.1f} dB"
    )


if __name__ == "__main__":
    main()
