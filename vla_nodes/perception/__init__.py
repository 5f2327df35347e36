"""The node perception and its parameters."""
