"""Policies: what they are built of, and one folder for each published system."""
