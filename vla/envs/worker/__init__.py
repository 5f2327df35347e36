"""Benchmarks that run in a process of another Python environment, and the messages to them."""
