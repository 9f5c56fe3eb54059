"""Detectors, and the feature codec of the base layer."""
