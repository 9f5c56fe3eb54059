"""Training: one loop, its checkpoints, and the export of what ships."""

from trifocal.training.loop import train

__all__ = ["train"]
