"""Encode, decode or detect in all images of a folder, on all processors of a machine or a cluster."""
