"""The peak memory of a codec: one picture to a file and back in a process of its own, which does nothing else.

    python -m trifocal.evaluation.memory CODEC PICTURE QUALITY    # prints bytes

It is what the operating system counts as resident: the interpreter and its libraries are among it, as they are for whoever
runs the codec.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

__all__ = ["own_peak", "peak_of"]


def peak_of(codec: str, picture: str | os.PathLike[str], quality: float) -> int | None:
    """Bytes; None where the system does not say, or the codec fails on the picture."""
    command = [sys.executable, "-m", "trifocal.evaluation.memory", codec, os.fspath(picture), str(quality)]
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


def main(codec: str, path: str, quality: str) -> None:
    from trifocal.evaluation.evaluate import subject_of
    from trifocal.pictures import Picture

    subject, picture = subject_of(codec), Picture.open(path)
    subject.decode(subject.encode(picture, float(quality)))
    print(own_peak() or "")


if __name__ == "__main__":
    main(*sys.argv[1:])
