"""Peak memory of a codec, measured in a separate process that encodes and decodes one image.

    python -m trifocal.evaluation.peak_memory CODEC IMAGE QUALITY [--text TEXT] [--own LABEL=PRESET:WEIGHTS]
    [--device DEVICE]

prints bytes. CODEC is a name as in tables. The figure is the resident memory of the process, which includes
the interpreter and its libraries.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from trifocal.evaluation.candidates.variant import Variant, check_device, parse_variant

__all__ = ["own_peak_memory", "peak_memory", "processor"]


def peak_memory(
    variant: Variant, image: str | os.PathLike[str], quality: float, text: str | None = None
) -> int | None:
    """The peak memory in bytes; None where the system does not report it, or the codec fails.

    Args:
        variant: the codec. A kind of text is ignored; `text` is used instead.
        image: a file.
        quality: 0..100.
        text: for a preset that reads text.
    """
    name = replace(variant, text=None).name
    options = [f"--text={text}"] if text is not None else []
    options += [f"--own={variant.weights_option}"] if variant.label else []
    arguments = [name, os.fspath(image), str(quality), f"--device={variant.device}", *options]
    command = [sys.executable, "-m", "trifocal.evaluation.peak_memory", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(run.stdout) if run.returncode == 0 and run.stdout.strip().isdecimal() else None


def own_peak_memory() -> int | None:
    """The peak memory of this process so far, in bytes; None where the system does not report it."""
    try:
        # Not `getrusage`: on Linux its value starts with that of the parent process.
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) << 10
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def processor() -> str:
    """The model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main(
    codec: str,
    path: str,
    quality: float,
    text: str | None = None,
    custom_weights: str | None = None,
    device: str = "cpu",
) -> None:
    """Encode and decode an image, and print the peak memory."""
    from trifocal.evaluation.candidates.candidate import PresetCandidate, candidate_for
    from trifocal.evaluation.candidates.factory import create_candidate
    from trifocal.pictures import Picture

    check_device(device)
    custom = [parse_variant(custom_weights, device)] if custom_weights else []
    variant = parse_variant(codec, device, {variant.label: variant for variant in custom})
    candidate = create_candidate(variant) if text is None else PresetCandidate(variant, text)
    coder = candidate_for(candidate, path)
    coder.decode(coder.encode(Picture.open(path, "colour"), quality))
    print(own_peak_memory() or "")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Print the peak memory of a codec in bytes.")
    parser.add_argument("codec", help="name as in tables")
    parser.add_argument("path", metavar="IMAGE")
    parser.add_argument("quality", type=float)
    parser.add_argument("--text", help="text for a preset that reads text")
    parser.add_argument(
        "--own",
        dest="custom_weights",
        metavar="LABEL=PRESET:WEIGHTS",
        help="the custom weights of a label in CODEC",
    )
    parser.add_argument("--device", default="cpu", help="of the preset, as torch names it")
    return parser.parse_args()


if __name__ == "__main__":
    main(**vars(parse()))
