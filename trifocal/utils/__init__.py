"""Atomic file writing, notices, timing, and limits."""
