"""Training: one loop, its checkpoints, and the export of what ships."""

from trifocal.errors import MissingExtra

try:
    from trifocal.training.loop import train
except ModuleNotFoundError as error:
    if error.name != "accelerate":
        raise
    raise MissingExtra("train", "Training") from error

__all__ = ["train"]
