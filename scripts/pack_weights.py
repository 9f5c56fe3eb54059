#!/usr/bin/env python3
"""Pack weights that no file's fingerprint covers, in place: to a third to a half of the float16 size.

    python scripts/pack_weights.py trifocal/weights/towers.safetensors --precision 8

Prints the size before and after, and the signal-to-noise ratio of the packed tensors. The file is replaced
only after the packed weights were unpacked and compared with the original ones.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from trifocal.errors import TrifocalError
from trifocal.utils.packed_weights import pack, to_float16, write_packed
from trifocal.weights import metadata_of, read_arrays


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, help="safetensors file, which is replaced")
    parser.add_argument(
        "--precision",
        type=float,
        required=True,
        help="steps in the root mean square of a row, a finite number above 0",
    )
    parser.add_argument(
        "--keep", metavar="PREFIX", help="leave tensors whose names start with this as float16"
    )
    given = parser.parse_args()
    try:
        print(pack_file(given.weights, given.precision, given.keep or None))
    except (TrifocalError, ValueError, OSError) as error:
        sys.exit(str(error))


def pack_file(path: Path, precision: float, kept_prefix: str | None) -> str:
    """Pack a file in place. Returns its sizes and the signal-to-noise ratio.

    Raises WeightsError, ValueError or OSError, and then leaves the file unchanged.
    """
    weights = read_arrays(path)
    kept = {name for name in weights if kept_prefix and name.startswith(kept_prefix)}
    others = {name: w for name, w in weights.items() if name not in kept}
    half = {name: to_float16(w) if w.dtype.kind == "f" else w for name, w in weights.items() if name in kept}
    before = path.stat().st_size
    found = write_packed(path, weights, pack(others, precision) | half, metadata_of(path))
    signal = sum(float((w.astype(np.float64) ** 2).sum()) for w in others.values())
    noise = sum(float(((found[name].astype(np.float64) - w) ** 2).sum()) for name, w in others.items())
    decibels = 10 * np.log10(signal / noise) if noise else np.inf
    return f"{path.name}: {before:,} to {path.stat().st_size:,} bytes, {decibels:.1f} dB"


if __name__ == "__main__":
    main()
