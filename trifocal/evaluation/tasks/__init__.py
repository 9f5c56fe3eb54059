"""Machine tasks on decoded images: detection, segmentation, classification, retrieval."""
