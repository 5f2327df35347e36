"""Runs the command line as `python -m vla_cli`."""

from vla_cli.parser import main

if __name__ == "__main__":
    raise SystemExit(main())
