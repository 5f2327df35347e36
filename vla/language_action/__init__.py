"""Demonstrations cut into atomic actions, each with an instruction that needs no image (LA4VLA)."""
