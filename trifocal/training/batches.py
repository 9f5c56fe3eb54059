"""Reading the training data of a task, and data echoing."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from accelerate.utils import set_seed

from trifocal.data import TrainingPicture, read_pictures, split
from trifocal.training.checkpoint import check_length
from trifocal.training.task import SEED, BatchSource, Report

__all__ = ["DataEcho", "read_data"]

SMALLEST = 64  # pixels of a side


def read_data(
    data: Sequence[str | Path], steps: int | None, minutes: float | None, report: Report
) -> tuple[list[TrainingPicture], list[TrainingPicture]]:
    """Check the length of a run, set the random seeds, and read its images: those for training, and those
    held out.

    Raises:
        OptionError: unless one of steps and minutes is given; if there are no images.
    """
    check_length(steps, minutes)
    set_seed(SEED)
    return split(read_pictures(data, SMALLEST, lambda key: report(0.0, f"reading {key}")))


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
