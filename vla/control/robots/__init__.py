"""Models of robots."""
