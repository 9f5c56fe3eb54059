"""Training images from folders, files and WebDataset shards."""

from trifocal.data.crops import CropBatch, CropRules, Crops
from trifocal.data.images import TrainingData, TrainingPicture, read_data, read_pictures, split

__all__ = [
    "CropBatch",
    "CropRules",
    "Crops",
    "TrainingData",
    "TrainingPicture",
    "read_data",
    "read_pictures",
    "split",
]
