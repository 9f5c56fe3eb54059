"""Training: one loop, its checkpoints, and the export of what ships."""

from trifocal.errors import MissingExtra

try:
    from trifocal.training.loop import train
    from trifocal.training.towers import train_towers
except ModuleNotFoundError as error:
    if error.name != "accelerate":
        raise
    raise MissingExtra("train", "Training") from error

__all__ = ["train", "train_towers"]
