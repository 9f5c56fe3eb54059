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
from trifocal.entropy.integer_arithmetic import ARITHMETIC
from trifocal.utils.files import write_csv
from trifocal.weights import fingerprint, read_weights

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ("preset", "fingerprint_1", "fingerprint_2", "release", "commit", "file", "sha256")
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
            marks = [fingerprint(weights, version, ARITHMETIC) for version in (1, 2)]
            if marks[0] is not None and marks[1] is not None:
                digest = hashlib.sha256((place / file).read_bytes()).hexdigest()
                rows.append((preset, f"{marks[0]:04x}", f"{marks[1]:08x}", release, commit, file, digest))
        return rows


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


if __name__ == "__main__":
    main()
