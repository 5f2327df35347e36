"""Runs the command line as `python -m vla.cli`."""

from vla.cli.parser import main

if __name__ == "__main__":
    raise SystemExit(main())
