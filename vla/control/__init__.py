"""Chunk execution, limits and kinematics: from action chunks to joint commands."""
