"""Environments that policies are evaluated and taught in."""
