"""The peak memory of a codec: one picture to a file and back in a process of its own, which does nothing else.

    python -m trifocal.evaluation.memory CODEC PICTURE QUALITY [--text TEXT] [--own LABEL=PRESET:WEIGHTS] [--device DEVICE]

prints bytes. CODEC is a name as in tables.

It is what the operating system counts as resident: the interpreter and its libraries are among it, as they are for whoever
runs the codec.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from trifocal.evaluation.codecs.custom_weights import BUNDLED, Models, labelled

__all__ = ["own_peak", "peak_of", "processor"]


def peak_of(
    codec: str,
    picture: str | os.PathLike[str],
    quality: float,
    text: str | None = None,
    models: Models = BUNDLED,
) -> int | None:
    """Bytes; None where the system does not say, or the codec fails on the picture. `text` is for a preset that takes words."""
    label = codec.partition(":")[0]
    options = [] if text is None else [f"--text={text}"]
    options += [f"--own={models[label].spec}"] if label in models.own else []
    words = [codec, os.fspath(picture), str(quality), f"--device={models.device}", *options]
    command = [sys.executable, "-m", "trifocal.evaluation.memory", *words]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(run.stdout) if run.returncode == 0 and run.stdout.strip().isdecimal() else None


def own_peak() -> int | None:
    """Of this process so far, in bytes. Linux's own count comes first: `getrusage` there begins with the parent's."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) << 10
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def processor() -> str:
    """What the processor calls itself."""
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
    own: str | None = None,
    device: str = "cpu",
) -> None:
    from trifocal.evaluation.codecs.candidates import PresetCandidate, candidate_of, for_picture
    from trifocal.pictures import Picture

    _, models = labelled([own] if own else [], device)
    plain = candidate_of(codec, models=models) if text is None else PresetCandidate(models[codec], text)
    subject = for_picture(plain, path)
    subject.decode(subject.encode(Picture.open(path, "colour"), quality))
    print(own_peak() or "")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Print the peak memory of a codec in bytes.")
    parser.add_argument("codec", help="name as in tables")
    parser.add_argument("path", metavar="PICTURE")
    parser.add_argument("quality", type=float)
    parser.add_argument("--text")
    parser.add_argument("--own", metavar="LABEL=PRESET:WEIGHTS", help="what a label in CODEC stands for")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main(**vars(parse()))
