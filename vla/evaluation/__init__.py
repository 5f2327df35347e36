"""Evaluation: benchmarks in process, figures from the running graph."""
