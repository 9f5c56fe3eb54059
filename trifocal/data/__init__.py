"""Training images from folders, files and WebDataset shards."""

from trifocal.data.images import CropBatch, Crops, TrainingPicture, read_pictures, split

__all__ = ["CropBatch", "Crops", "TrainingPicture", "read_pictures", "split"]
