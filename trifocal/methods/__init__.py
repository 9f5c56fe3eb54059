"""One paper, one file: the parts that it chooses, and what it overrides."""
