"""Atomic file writing, timing, and limits."""
