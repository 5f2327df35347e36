"""`python -m vla_nodes.launcher`: the same as `vla launch`."""

import sys

from vla_nodes.launcher import main

sys.exit(main(sys.argv[1:]))
