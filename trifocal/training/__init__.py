"""Training: one trainer, its tasks, and their batches."""

from trifocal.errors import MissingExtra

try:
    from trifocal.training.processes import in_processes
    from trifocal.training.tasks.base_layer import train_base_layer
    from trifocal.training.tasks.codec import train
    from trifocal.training.tasks.detector import train_detector
    from trifocal.training.tasks.text_image import train_text_image
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "accelerate":
        raise
    raise MissingExtra("train", "Training") from error

__all__ = ["in_processes", "train", "train_base_layer", "train_detector", "train_text_image"]
