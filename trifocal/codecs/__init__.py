"""The codec, what its methods share, and one file for each paper."""
