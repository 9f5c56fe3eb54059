"""The images of a run, and data echoing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trifocal.data import TrainingPicture, read_data, split
from trifocal.data.images import HELD_OUT_ONE_IN
from trifocal.training.processes import local_processes, process_rank
from trifocal.training.task import BatchSource, Notify, Report

__all__ = ["SMALLEST", "DataEcho", "RunData", "read_run_data"]

SMALLEST = 64  # pixels of a side


@dataclass(frozen=True)
class RunData:
    """The images of a run.

    Attributes:
        training, held_out: images.
        captioned, boxed: how many of them have captions and boxes.
        places: folders and shards of the images, at least one.
        record: facts for the record of the run.
    """

    training: list[TrainingPicture]
    held_out: list[TrainingPicture]
    captioned: int
    boxed: int
    places: tuple[Path, ...]
    record: dict[str, object]


def read_run_data(
    data: Sequence[str | Path],
    report: Report,
    notify: Notify,
    smallest: int = SMALLEST,
    held_out: int = HELD_OUT_ONE_IN,
) -> RunData:
    """Read the images of a run, and tell the user what was read and what was left out.

    Args:
        data: folders, image files and shards.
        report: called with the key of each image.
        notify: called once, in the first process.
        smallest: length of a side in pixels.
        held_out: one image in so many validates the run; 0 for none besides training images.

    Raises:
        OptionError: if there are no images; see `read_data`.
    """
    found = read_data(data, smallest, lambda key: report(0.0, f"reading {key}"), local_processes())
    training, validating = split(found.pictures, held_out)
    kind = "held out for validation" if held_out else "also used for validation"
    if process_rank() == 0:
        verb = "is" if len(validating) == 1 else "are"
        notify(f"{found.sentence(smallest)} {len(validating)} {verb} {kind}.")
    record = {**found.record(), "held_out": len(validating) if held_out else 0}
    return RunData(training, validating, found.captioned, found.boxed, found.places, {"read": record})


class DataEcho:
    """Batches of a slow source, each returned several times, with others in between.

    "Data echoing" (Choi et al. 2019, "Faster neural network training with data echoing").

    Args:
        source: of the batches.
        times: how often a batch is returned on average.
        seed: of the choice.
    """

    kept = 64
    """Number of batches from which one is drawn."""

    def __init__(self, source: BatchSource, times: int, seed: int) -> None:
        self.source, self.times = source, times
        self.random = np.random.default_rng(seed)
        self.pool: list[object] = []

    def next(self) -> object:
        """A batch of the pool, or a new one, which enters the pool."""
        if len(self.pool) == self.kept and self.random.integers(self.times):
            return self.pool[self.random.integers(self.kept)]
        fresh = self.source.next()
        if len(self.pool) < self.kept:
            self.pool.append(fresh)
        else:
            self.pool[self.random.integers(self.kept)] = fresh
        return fresh

    def close(self) -> None:
        """Close the source."""
        self.source.close()
