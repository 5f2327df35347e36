"""The fake of LIBERO."""
