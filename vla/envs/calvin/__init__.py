"""CALVIN, chains of five instructions at a table, in a Python environment of its own."""
