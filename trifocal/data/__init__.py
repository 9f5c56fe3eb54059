"""Pictures for training: folders, single files and WebDataset shards."""

from trifocal.data.images import Crops, TrainingPicture, read_pictures, split

__all__ = ["Crops", "TrainingPicture", "read_pictures", "split"]
