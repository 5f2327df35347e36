"""Programs that talk to a running graph."""
