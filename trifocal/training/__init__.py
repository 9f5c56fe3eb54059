"""Training: the loops, their checkpoints, and the export of what ships."""

from trifocal.errors import MissingExtra

try:
    from trifocal.training.base import train_base
    from trifocal.training.detector import train_detector
    from trifocal.training.loop import train
    from trifocal.training.processes import in_processes
    from trifocal.training.towers import train_towers
except ModuleNotFoundError as error:
    if error.name != "accelerate":
        raise
    raise MissingExtra("train", "Training") from error

__all__ = ["in_processes", "train", "train_base", "train_detector", "train_towers"]
