"""The node sim and its parts."""
