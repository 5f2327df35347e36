"""The node controller and its parts."""
