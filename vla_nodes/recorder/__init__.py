"""The node recorder and its parts."""
