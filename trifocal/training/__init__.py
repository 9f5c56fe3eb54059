"""Training: one trainer, its tasks, and their batches."""

from trifocal.errors import optional_packages

with optional_packages("train", "Training"):
    from trifocal.training.export import export_run
    from trifocal.training.operations import count_base_operations, count_operations
    from trifocal.training.processes import in_processes, process_rank
    from trifocal.training.run import RunOptions
    from trifocal.training.tasks.base_layer import train_base_layer
    from trifocal.training.tasks.codec import train
    from trifocal.training.tasks.detector import train_detector
    from trifocal.training.tasks.text_categories import train_text_categories
    from trifocal.training.tasks.text_image import train_text_image

__all__ = [
    "RunOptions",
    "count_base_operations",
    "count_operations",
    "export_run",
    "in_processes",
    "process_rank",
    "train",
    "train_base_layer",
    "train_detector",
    "train_text_categories",
    "train_text_image",
]
