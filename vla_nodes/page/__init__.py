"""The node page and its parts."""
