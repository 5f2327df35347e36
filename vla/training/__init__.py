"""Training: configuration, batches, one loop."""
