"""Metrics that model human vision: Butteraugli, ColorVideoVDP and FLIP, by their authors' code.

All three run on the CPU and read the pixels as sRGB. Their viewing conditions are the defaults of the
implementations.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from trifocal.errors import MissingExtra, NotMeasured
from trifocal.evaluation.metrics.pair import Measure, Pair

__all__ = ["MIN_SIDE_BUTTERAUGLI", "MIN_SIDE_CVVDP", "load_butteraugli", "load_cvvdp", "load_flip"]

BUTTERAUGLI = "butteraugli_main"
MIN_SIDE_BUTTERAUGLI = 8  # pixels: the program prints 0 for smaller images
MIN_SIDE_CVVDP = 2  # pixels: the package's pyramid needs two


def load_butteraugli() -> Measure:
    """The 3-norm of the distance map of Butteraugli at 80 nits, as libjxl's `butteraugli_main` prints it. 0
    for equal images.

    The original is the program's reference: exchanging the two images changes the value. Compare values of
    one release of libjxl only. The measure returns None where a side is shorter than MIN_SIDE_BUTTERAUGLI.

    Raises:
        NotMeasured: if the program is not installed, or, from the measure, if it fails.
    """
    program = shutil.which(BUTTERAUGLI)
    if program is None:
        remedy = "install libjxl's tools (on Debian and Ubuntu: apt install libjxl-devtools)"
        raise NotMeasured("Butteraugli", f"the program {BUTTERAUGLI} is not installed", remedy)

    def measure(pair: Pair) -> float | None:
        if min(pair.original.shape[:2]) < MIN_SIDE_BUTTERAUGLI:
            return None
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, name) for name in ("original.ppm", "decoded.ppm")]
            for path, pixels in zip(paths, (pair.original, pair.decoded)):
                Image.fromarray(pixels).save(path)
            command = [program, *map(str, paths), "--pnorm", "3", "--intensity_target", "80"]
            done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
        norms = [line for line in done.stdout.splitlines() if line.startswith("3-norm: ")]
        if done.returncode or not norms:
            message = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            why = f"{BUTTERAUGLI} failed ({message[-1].rstrip('.')})"
            raise NotMeasured("Butteraugli", why, "reinstall libjxl's tools")
        return float(norms[0].split()[1])

    return measure


def load_cvvdp() -> Measure:
    """ColorVideoVDP (Mantiuk et al. 2024, doi 10.1145/3658144), in JOD: 10 is no visible difference.

    The display is `standard_4k`: 200 nits, 75.4 pixels per degree. The measure returns None where a side is
        shorter
    than MIN_SIDE_CVVDP.

    Raises:
        MissingExtra: without the package cvvdp.
    """
    import torch

    from trifocal.losses.cvvdp import new_metric

    try:
        model = new_metric(torch.device("cpu"))
        from pycvvdp.video_source import video_source_array
    except ImportError:
        raise MissingExtra("evaluate", "Measuring CVVDP") from None

    def measure(pair: Pair) -> float | None:
        if min(pair.original.shape[:2]) < MIN_SIDE_CVVDP:
            return None
        source = video_source_array(
            pair.decoded, pair.original, 0, dim_order="HWC", display_photometry=model.display_photometry
        )
        source.warning_shown = True  # otherwise it warns that a dark image "may not be scaled"
        with torch.inference_mode():
            return float(model.predict_video_source(source)[0])

    return measure


def load_flip() -> Measure:
    """The mean of LDR-FLIP (Andersson et al. 2020, doi 10.1145/3406183) at 67 pixels per degree, 0..1. 0 for
    equal images.

    Raises:
        MissingExtra: without the package flip-evaluator.
    """
    try:
        from flip_evaluator import evaluate
    except ImportError:
        raise MissingExtra("evaluate", "Measuring FLIP") from None

    def measure(pair: Pair) -> float:
        reference, test = (pixels.astype(np.float32) / 255 for pixels in (pair.original, pair.decoded))
        return float(evaluate(reference, test, "LDR", applyMagma=False)[1])

    return measure
