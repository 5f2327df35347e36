"""Policies: what they share, and one folder for each published system."""
