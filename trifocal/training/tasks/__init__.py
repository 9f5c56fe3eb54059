"""Training tasks: networks, batches, losses and exported files."""
