"""Chains of five tasks in one scene: instructions that have to be followed one after the other."""
