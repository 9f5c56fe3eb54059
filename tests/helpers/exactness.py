"""Check sums of what all machines decode alike: `python exactness.py FOLDER PRESET,… FILE…` prints JSON.

Encodes a part of the bundled photograph to FOLDER by each preset, then decodes these files and the others,
and writes their pixels to FOLDER. Needs the plain installation only, so that an emulated machine can run it.
"""

import hashlib
import json
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

import trifocal
from trifocal.demo import PHOTOGRAPH
from trifocal.entropy.coder import Array, Reader
from trifocal.entropy.range_coder import range_coder_models
from trifocal.entropy.tables import logistic_frequencies

PART = (100, 50, 260, 170)  # of the photograph: left, top, right, bottom


@contextmanager
def recorded_values() -> Iterator[Any]:
    """A hash of all values that readers return in the block, with their means and table rows."""
    code, found = Reader.code, hashlib.sha256()

    def record(reader: Reader, y: Any, mean: Array, scale_index: Array, dead_zone: float = 0.5) -> Array:
        values = code(reader, y, mean, scale_index, dead_zone)
        for part in (values, mean, np.rint(scale_index)):
            found.update(np.ascontiguousarray(part, dtype="<f8").tobytes())
        return values

    with patch.object(Reader, "code", record):
        yield found


def main(folder: Path, presets: list[str], files: list[Path]) -> None:
    with Image.open(PHOTOGRAPH) as photograph:
        image = np.asarray(photograph.convert("RGB").crop(PART))
    for preset in presets:
        files = [*files, folder / f"{preset}.tri"]
        trifocal.encode(image, preset, quality=40).save(files[-1])
    sums = {}
    for path in files:
        name = f"{path.parent.name}-{path.stem}"
        with recorded_values() as found:
            np.save(folder / f"{name}.npy", trifocal.decode(path).picture.rgb)
        sums[name] = found.hexdigest()
    models = range_coder_models(logistic_frequencies())
    print(json.dumps({"machine": platform.machine(), "coder": models.encoder.__name__, "sums": sums}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), [Path(name) for name in sys.argv[3:]])
