"""Metrics of decoded images: one number per image, or one per set of images."""
