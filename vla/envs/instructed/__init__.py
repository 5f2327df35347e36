"""A benchmark of tasks whose goal only the instruction says."""
