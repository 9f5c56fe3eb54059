"""Encode, decode or detect in all images of a folder, on the processors of a machine or a cluster, with Ray Data."""
