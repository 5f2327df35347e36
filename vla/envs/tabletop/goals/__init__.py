"""Scenes with several goals, of which only the instruction says one (LA4VLA)."""
