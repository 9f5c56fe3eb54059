"""Pictures for training: folders, single files and WebDataset shards."""

from trifocal.data.images import CropBatch, Crops, TrainingPicture, read_pictures, split

__all__ = ["CropBatch", "Crops", "TrainingPicture", "read_pictures", "split"]
