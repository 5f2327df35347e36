"""Seeded fuzzing of everything that reads what others wrote: `make fuzz`.

Each module has one target, a function of a count and a seed that adds what it found to a Report.
"""
