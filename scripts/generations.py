#!/usr/bin/env python3
"""Write trifocal/weights/generations.csv: the commit that holds the weights of each released fingerprint.

    python scripts/generations.py

Unpacks each commit that changed trifocal/weights/, reads from its own table of presets which files a preset
uses, and computes their fingerprints for both versions of the file format.
"""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from trifocal.cli.console import Console, reporting
from trifocal.codecs.loading import GENERATIONS
from trifocal.utils.files import write_csv
from trifocal.weights import FINGERPRINT_BYTES, fingerprint, kind_of_fingerprint, read_weights

ROOT = Path(__file__).resolve().parent.parent
KINDS = ((1, 1), (2, 1), (2, 2))  # of fingerprints: version of the file format, and arithmetic
MARKS = tuple(f"fingerprint_{kind_of_fingerprint(*kind)}" for kind in KINDS)
COLUMNS = ("preset", *MARKS, "release", "commit", "file", "sha256")
TABLE = """
import json
from pathlib import Path
from trifocal.presets import PRESETS
there = [p for p in PRESETS if Path("trifocal/weights", p.weights).exists()]
shared = [getattr(p, "shared_weights", getattr(p, "shared", "")) for p in there]
print(json.dumps([[p.name, p.weights, other] for p, other in zip(there, shared)]))
"""
Row = tuple[str, ...]


def main() -> None:
    rows: dict[tuple[str, str], Row] = {}
    commits = git("log", "--reverse", "--format=%h", "--", "trifocal/weights").decode().split()
    with reporting(Console()) as report:
        for number, commit in enumerate(commits, start=1):
            report(number / len(commits), commit)
            for row in fingerprint_rows(commit):
                rows.setdefault((row[0], row[2]), row)
    write_csv(GENERATIONS, [COLUMNS, *sorted(rows.values())])
    print(f"{GENERATIONS}  {len(rows)} generations of {len(commits)} commits")


def fingerprint_rows(commit: str) -> list[Row]:
    """A row for each preset with weights in a commit."""
    with tempfile.TemporaryDirectory(prefix="trifocal-") as folder:
        with tarfile.open(
            fileobj=io.BytesIO(git("archive", commit, "trifocal", "pyproject.toml"))
        ) as archive:
            archive.extractall(folder, filter="data")
        table = subprocess.run(
            [sys.executable, "-c", TABLE], cwd=folder, capture_output=True, check=False, text=True
        )
        if table.returncode:
            print(f"{commit}: {table.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            return []
        project = Path(folder, "pyproject.toml").read_text("utf-8")
        release = project.split('version = "')[1].split('"')[0]
        place = Path(folder, "trifocal", "weights")
        rows: list[Row] = []
        for preset, file, shared in json.loads(table.stdout):
            weights = read_weights(place / file, place / shared if shared else None)
            marks = [(fingerprint(weights, *kind), 2 * FINGERPRINT_BYTES[kind[0]]) for kind in KINDS]
            found = [f"{mark:0{digits}x}" for mark, digits in marks if mark is not None]
            if len(found) == len(KINDS):
                digest = hashlib.sha256((place / file).read_bytes()).hexdigest()
                rows.append((preset, *found, release, commit, file, digest))
        return rows


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


if __name__ == "__main__":
    main()
