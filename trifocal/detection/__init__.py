"""Detectors, the transforms of the base layer, and the image encoder."""
