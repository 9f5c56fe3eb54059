"""Grounding: find what labels and words name in an image."""
