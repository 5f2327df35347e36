"""MetaWorld, fifty tasks of a Sawyer arm at a table, in a Python environment of its own."""
