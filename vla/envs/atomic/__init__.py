"""A benchmark of single atomic actions, of which only the instruction says which one."""
