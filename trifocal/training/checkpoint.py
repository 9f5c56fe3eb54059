"""A training run on disk: DIR/checkpoint.pt is replaced as a whole, DIR/log.csv grows."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trifocal.files import replacing


@dataclass
class Progress:
    """How far a run is; `seconds` counts the time spent in steps over all its sessions."""

    step: int = 0
    seconds: float = 0.0


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes beside the old checkpoint and then takes its place."""
    with replacing(path) as stream:
        torch.save(state, stream)


def restore(path: Path, device: torch.device) -> dict[str, Any]:
    """What `save` wrote; only tensors and plain values are read, no code."""
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """One more line of a CSV file; the first brings the heading."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
