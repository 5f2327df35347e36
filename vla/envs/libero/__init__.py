"""LIBERO, four suites of ten tasks of a Panda, in a Python environment of its own."""
