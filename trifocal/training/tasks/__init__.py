"""Training tasks: which network learns, from which batches and losses, and what is exported."""
